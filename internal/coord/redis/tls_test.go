package redis_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes a key and a certificate of its own for loopback, and gives the
// pool that trusts it.
func certificate(t *testing.T) (certFile, keyFile string, trust *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	must(t, os.WriteFile(certFile, text, 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	trust = x509.NewCertPool()
	trust.AppendCertsFromPEM(text)
	return certFile, keyFile, trust
}

// Over TLS, with a user of its own who may do what the operators' guide says, and
// nothing else. Whom nobody vouches for is not talked to.
func TestTLSAndUser(t *testing.T) {
	cert, key, trust := certificate(t)
	args := []string{"--port", "0", "--tls-port", "@PORT@", "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no", "--user"}
	s := start(t, append(args, strings.Fields("tallystick on >secret resetchannels &tally:* ~tally:* -@all +eval +evalsha +publish +subscribe"+
		" +ping +zrem +time +hmget +hset +pexpire +zadd +zremrangebyscore +zcard")...)...)
	c := config(s.Addr)
	c.KeyPrefix, c.Username, c.Password = "tally:", "tallystick", "secret"
	c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trust}
	a, b := run(t, c, nil), run(t, c, nil)
	together(t, a, b)
	shared(t, "x", a, b)
	b.stop()
	together(t, a)

	c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	c.Replicas = 4
	alone(t, run(t, c, nil), "y", 4)
}
