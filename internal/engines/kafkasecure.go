package engines

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Security is how a secured broker is reached, beside its plain address.
type Security struct {
	SASLAddr string // TLS and a password, SCRAM-SHA-512 or PLAIN
	TLSAddr  string // TLS and a client certificate
	Username string
	Password string
	CAFile   string // who signed the broker's certificate, which is for localhost and 127.0.0.1
	// CertFile and KeyFile are a client certificate that the broker takes.
	CertFile, KeyFile string
	// OtherCAFile is a CA that signed nothing here.
	OtherCAFile string
}

// secureProperties change the listeners of kafkaProperties.
var secureProperties = strings.NewReplacer(
	"listeners=PLAIN://127.0.0.1:@PORT@,CTRL", "listeners=PLAIN://127.0.0.1:@PORT@,SECURE://127.0.0.1:@SASL@,MUTUAL://127.0.0.1:@TLS@,CTRL",
	"advertised.listeners=PLAIN://127.0.0.1:@PORT@", "advertised.listeners=PLAIN://127.0.0.1:@PORT@,SECURE://localhost:@SASL@,MUTUAL://localhost:@TLS@",
	"listener.security.protocol.map=PLAIN:PLAINTEXT,", "listener.security.protocol.map=PLAIN:PLAINTEXT,SECURE:SASL_SSL,MUTUAL:SSL,",
)

const secureMore = `sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_@USER@="@PASSWORD@";
ssl.keystore.type=PEM
ssl.keystore.location=@DIR@/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=@DIR@/ca.pem
listener.name.mutual.ssl.client.auth=required
`

// StartSecureKafka starts a fresh broker that listens for secured connections as
// well, with certificates that are made here.
func StartSecureKafka(ctx context.Context, dir string) (*Kafka, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	s := &Security{SASLAddr: "localhost:" + itoa(ports[2]), TLSAddr: "localhost:" + itoa(ports[3]), Username: "pay", Password: "correct horse",
		CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), OtherCAFile: file("other.pem")}
	if err := makeCertificates(s, file("broker.pem")); err != nil {
		return nil, err
	}
	more := strings.NewReplacer("@USER@", s.Username, "@PASSWORD@", s.Password).Replace(secureMore)
	properties := strings.NewReplacer("@SASL@", itoa(ports[2]), "@TLS@", itoa(ports[3])).Replace(secureProperties.Replace(kafkaProperties) + more)
	return startKafka(ctx, dir, clusterID, ports[:2], s, properties, soon)
}

// makeCertificates writes a CA, the broker's certificate with its key, a client's,
// and another CA.
func makeCertificates(s *Security, broker string) error {
	ca, err := newAuthority("tallystick test")
	if err != nil {
		return err
	}
	other, err := newAuthority("somebody else")
	if err != nil {
		return err
	}
	cert, key, err := ca.sign("localhost", x509.ExtKeyUsageServerAuth)
	if err != nil {
		return err
	}
	clientCert, clientKey, err := ca.sign("pay", x509.ExtKeyUsageClientAuth)
	if err != nil {
		return err
	}
	for path, text := range map[string][]byte{s.CAFile: ca.text, s.OtherCAFile: other.text, broker: append(key, cert...), s.CertFile: clientCert, s.KeyFile: clientKey} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	text []byte // PEM
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	c := template(name)
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	c, err = x509.ParseCertificate(der)
	return &authority{cert: c, key: key, text: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, err
}

func template(name string) *x509.Certificate {
	// No clock is asked: tests may run with any.
	return &x509.Certificate{SerialNumber: big.NewInt(int64(len(name))), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// sign makes a certificate for localhost, and its key.
func (a *authority) sign(name string, use x509.ExtKeyUsage) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	c := template(name)
	c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{use}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &private.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), err
}
