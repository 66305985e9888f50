package sqldb_test

import (
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
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// sign makes a certificate; a nil signer signs itself.
func sign(t *testing.T, signer *authority, template *x509.Certificate) (a *authority, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := template, key
	if signer != nil {
		parent, by = signer.cert, signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}, pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", secret)
}

func newAuthority(t *testing.T, name string) (a *authority, file string) {
	t.Helper()
	a, cert, _ := sign(t, nil, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	file = filepath.Join(t.TempDir(), name+".pem")
	if err := os.WriteFile(file, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	return a, file
}

// TestPostgresTLS: a server is believed for its certificate alone, and one without
// is not talked to.
func TestPostgresTLS(t *testing.T) {
	ours, oursFile := newAuthority(t, "ours")
	_, othersFile := newAuthority(t, "others")
	_, cert, key := sign(t, ours, &x509.Certificate{Subject: pkix.Name{CommonName: "db"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	e, err := engines.StartPostgresWith(t.Context(), engines.PostgresOptions{CertPEM: cert, KeyPEM: key,
		HBA: []string{"hostssl all all 127.0.0.1/32 trust"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	plain := strings.TrimSuffix(e.URL("postgres"), "sslmode=disable")
	at := func(settings string) sqldb.Options {
		return sqldb.Options{Area: "test", Migrations: []string{schema}, NoSync: true, Postgres: &sqldb.Postgres{URL: plain + settings, Number: 1}}
	}
	o := migrated(t, at("sslmode=verify-full&sslrootcert="+oursFile))
	db := open(t, o)
	write(t, db, func(tx *sqldb.Tx) error {
		encrypted := false
		err := tx.Query(`SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`, nil, func(scan sqldb.Scan) error { return scan(&encrypted) })
		if !encrypted {
			t.Error("it is not encrypted")
		}
		return err
	})
	// A connection that ended while it was idle shows through TLS too.
	var pid int
	write(t, db, func(tx *sqldb.Tx) (err error) { pid, err = backend(tx); return err })
	if err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
		return tx.Query(`SELECT pg_terminate_backend(?, 10000)`, []any{pid}, func(sqldb.Scan) error { return nil })
	}); err != nil {
		t.Fatal(err)
	}
	write(t, db, func(tx *sqldb.Tx) error { return insert(tx, "a") })

	for _, c := range []struct{ name, settings, says string }{
		{"another authority", "sslmode=verify-full&sslrootcert=" + othersFile, "certificate signed by unknown authority"},
		{"no authority", "sslmode=verify-full", "certificate signed by unknown authority"},
		{"another host", "sslmode=verify-full&host=localhost&sslrootcert=" + oursFile, "localhost"},
		{"no TLS", "sslmode=disable", "no encryption"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for what, err := range map[string]error{"open": second(sqldb.Open(t.Context(), at(c.settings))), "migrate": sqldb.Migrate(t.Context(), at(c.settings), ""),
				"make role": sqldb.MakeRole(t.Context(), *at(c.settings).Postgres, "app", "")} {
				if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}

	// One that does not speak it is refused where it is asked for.
	o.Postgres.URL = strings.Replace(server.Engine(t).URL("postgres"), "sslmode=disable", "sslmode=verify-full&sslrootcert="+oursFile, 1)
	if err := second(sqldb.Open(t.Context(), o)); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "refused TLS") {
		t.Error(err)
	}
}
