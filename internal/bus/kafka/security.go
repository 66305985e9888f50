package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/tallystick/tallystick/internal/fault"
)

// TLS says how connections are encrypted. The zero value is not at all.
type TLS struct {
	Enabled bool   `yaml:"enabled"`
	CAFile  string `yaml:"ca_file"` // PEM, who may have signed the brokers' certificates; the system's roots if empty
	// CertFile and KeyFile are the certificate that is shown to brokers, in PEM; none
	// if empty. They are read again for each connection: a new one needs no restart.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is what the brokers' certificates are for; the host of their address
	// if empty.
	ServerName string `yaml:"server_name"`
}

// The mechanisms of SASL.
const (
	SCRAMSHA512 = "SCRAM-SHA-512"
	Plain       = "PLAIN"
)

// SASL says who connects. The zero value is nobody.
type SASL struct {
	Mechanism string `yaml:"mechanism"` // SCRAMSHA512 or Plain; empty for none
	Username  string `yaml:"username"`
	Password  string `yaml:"-"` // in no file of configuration
}

// validate names the first value that does not fit the others.
func (t TLS) validate(bad func(field, fix string) error) error {
	for _, f := range []struct{ key, value string }{{"ca_file", t.CAFile}, {"cert_file", t.CertFile}, {"key_file", t.KeyFile}, {"server_name", t.ServerName}} {
		if f.value != "" && !t.Enabled {
			return bad("tls."+f.key, "set kafka.tls.enabled to true, or leave it out")
		}
	}
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		return bad("tls.key_file", "name the key of kafka.tls.cert_file")
	case t.CertFile == "" && t.KeyFile != "":
		return bad("tls.cert_file", "name the certificate of kafka.tls.key_file")
	}
	return nil
}

func (s SASL) validate(encrypted bool, bad func(field, fix string) error) error {
	switch {
	case s.Mechanism == "" && s.Username != "":
		return bad("sasl.mechanism", "use "+SCRAMSHA512+" or "+Plain+", or leave kafka.sasl.username out")
	case s.Mechanism == "":
		return nil
	case s.Mechanism != SCRAMSHA512 && s.Mechanism != Plain:
		return bad("sasl.mechanism", "use "+SCRAMSHA512+" or "+Plain)
	case s.Username == "":
		return bad("sasl.username", "name the user that the brokers know")
	case s.Mechanism == Plain && !encrypted:
		return bad("sasl.mechanism", "set kafka.tls.enabled to true, or use "+SCRAMSHA512+": the password would be readable on the wire")
	}
	return nil
}

// config reads the files.
func (t TLS) config() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil //nolint:nilnil // no TLS
	}
	refuse := func(key, fix string, err error) error {
		return &fault.Error{Kind: fault.Invalid, Op: "kafka", Field: "kafka.tls." + key, Code: "unreadable", Fix: fix, Err: err}
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, refuse("ca_file", "name a file that this user may read", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, refuse("ca_file", "it must hold certificates in PEM", fmt.Errorf("there is none in %s", t.CAFile))
		}
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, refuse("cert_file", "it and kafka.tls.key_file must hold a certificate and its key in PEM", err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &pair, err
		}
	}
	return c, nil
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case SCRAMSHA512:
		return scram.Mechanism(scram.SHA512, s.Username, s.Password)
	case Plain:
		return plain.Mechanism{Username: s.Username, Password: s.Password}, nil
	}
	return nil, nil //nolint:nilnil // no SASL
}

// connectError is an error before a connection was there: not a byte of any
// request has left.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// dialer connects, and shakes hands within ctx, so that what fails until there is
// known as such.
func dialer(config *tls.Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, &connectError{err}
		}
		if config == nil {
			return conn, nil
		}
		c := config
		if c.ServerName == "" {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, errors.Join(&connectError{err}, conn.Close())
			}
			c = c.Clone()
			c.ServerName = host
		}
		secured := tls.Client(conn, c)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, &connectError{err}
		}
		return secured, nil
	}
}

// misconfigured gives an error that no waiting will mend its key and its fix; nil
// for any other error: brokers that start or end say little about why.
func (c *Cluster) misconfigured(err error) error {
	refuse := func(field, code, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "kafka", Field: "kafka." + field, Code: code, Fix: fix, Err: err}
	}
	var name x509.HostnameError
	var cert *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.Is(err, kafka.SASLAuthenticationFailed):
		return refuse("sasl.username", "authentication_failed", "give a user that the brokers know, and its password in secrets/kafka.password")
	case errors.Is(err, kafka.UnsupportedSASLMechanism), errors.Is(err, kafka.IllegalSASLState):
		return refuse("sasl.mechanism", "mechanism_refused", "use a mechanism that the brokers' listener has")
	case errors.As(err, &name):
		return refuse("tls.server_name", "wrong_name", "give the name that the brokers' certificates are for")
	case errors.As(err, &cert):
		return refuse("tls.ca_file", "unknown_authority", "name the file with the CA that signed the brokers' certificates")
	case errors.As(err, &header):
		return refuse("tls.enabled", "no_tls", "set it to false, or use the brokers' TLS listener")
	case c.cfg.TLS.Enabled && errors.As(err, &op) && op.Op == "remote error": // an alert of TLS
		return refuse("tls.cert_file", "certificate_refused", "name a certificate that the brokers take")
	case !c.cfg.TLS.Enabled && errors.Is(err, io.ErrUnexpectedEOF) && strings.Contains(err.Error(), "expecting TLS"):
		return refuse("tls.enabled", "tls_expected", "set it to true, or use the brokers' plain listener")
	}
	return nil
}
