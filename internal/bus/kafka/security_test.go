package kafka_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/bustest"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

// secured is config over TLS, with a user and a password.
func secured(dir string) kafka.Config {
	c, s := config(dir), broker.Secure
	c.Brokers = []string{s.SASLAddr}
	c.TLS = kafka.TLS{Enabled: true, CAFile: s.CAFile}
	c.SASL = kafka.SASL{Mechanism: kafka.SCRAMSHA512, Username: s.Username, Password: s.Password}
	return c
}

// mutual is config over TLS, with a client certificate.
func mutual(dir string) kafka.Config {
	c, s := config(dir), broker.Secure
	c.Brokers = []string{s.TLSAddr}
	c.TLS = kafka.TLS{Enabled: true, CAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile}
	return c
}

// Every connection is secured: the brokers of these addresses take no other.
func TestSecured(t *testing.T) {
	cases := []string{"content and order by key", "concurrent writers", "heads", "poison waits with its key"}
	plain := func(dir string) kafka.Config {
		c := secured(dir)
		c.SASL.Mechanism = kafka.Plain
		return c
	}
	for name, open := range map[string]bustest.Open{"intake": openIntake(secured), "relay": openRelay(secured), "intake, PLAIN": openIntake(plain),
		"relay, client certificate": openRelay(mutual)} {
		t.Run(name, func(t *testing.T) {
			run := 0
			for _, c := range bustest.Cases() {
				if i := slices.Index(cases, c.Name); i >= 0 && (i < 2 || !strings.Contains(name, ",")) {
					t.Run(c.Name, func(t *testing.T) { c.Run(t, open) })
					run++
				}
			}
			if run < 2 {
				t.Errorf("only %d cases were run", run)
			}
		})
	}
	// So are those that measure, and that tell places.
	cluster := connect(t, secured(t.TempDir()), bus.Intents)
	b := kafka.NewBacklog(cluster, kafka.BacklogConfig{Reader: "core", UnreadBytesMax: 1, UnreadAgeMax: time.Minute, RecordBytes: 1}, time.Now, bus.Intents)
	eventually(t, "places are told", func() error {
		return cluster.Tell(t.Context(), "core", bus.Intents, map[int]bus.Place{0: {Epoch: 1, Seq: 0}})
	})
	must(t, b.Step(t.Context()))
}

// A start with what brokers refuse ends at once, and names the key.
func TestWrongCredentialsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		from   func(string) kafka.Config
		change func(*kafka.Config)
		key    string
	}{
		"a wrong password":        {secured, func(c *kafka.Config) { c.SASL.Password = "guess" }, "kafka.sasl.username"},
		"a wrong password, PLAIN": {secured, func(c *kafka.Config) { c.SASL.Mechanism, c.SASL.Password = kafka.Plain, "guess" }, "kafka.sasl.username"},
		"an unknown user":         {secured, func(c *kafka.Config) { c.SASL.Username = "nobody" }, "kafka.sasl.username"},
		"a listener without SASL": {mutual, func(c *kafka.Config) { c.SASL = secured("").SASL }, "kafka.sasl.mechanism"},
		"another CA":              {secured, func(c *kafka.Config) { c.TLS.CAFile = broker.Secure.OtherCAFile }, "kafka.tls.ca_file"},
		"the system's CAs":        {secured, func(c *kafka.Config) { c.TLS.CAFile = "" }, "kafka.tls.ca_file"},
		"another name":            {secured, func(c *kafka.Config) { c.TLS.ServerName = "kafka.example.com" }, "kafka.tls.server_name"},
		"no TLS where there is":   {secured, func(c *kafka.Config) { c.TLS = kafka.TLS{} }, "kafka.tls.enabled"},
		"no certificate":          {mutual, func(c *kafka.Config) { c.TLS.CertFile, c.TLS.KeyFile = "", "" }, "kafka.tls.cert_file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := tc.from(t.TempDir())
			tc.change(&c)
			cluster, err := kafka.Connect(c)
			must(t, err)
			defer cluster.Close() //nolint:errcheck // a test
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := cluster.EnsureTopics(ctx, bus.Intents); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.key+":") {
				t.Errorf("have %v, want fault.Invalid for %s", err, tc.key)
			}
			// Whoever comes later, after the start: it is certain that nothing was sent.
			in, err := kafka.NewIntake(cluster, kafka.DefaultIntakeConfig(), nil, bus.Intents)
			must(t, err)
			b := newBackground()
			b.run(in.Run)
			if err := ask(t, in, &bustest.Events("n", 1, 1)[0]); !fault.Is(err, fault.Unavailable) {
				t.Errorf("an append: %v", err)
			}
			must(t, b.stop())
		})
	}
}

func TestBadSecurityNamesTheKey(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	must(t, os.WriteFile(empty, nil, 0o600))
	tls := kafka.TLS{Enabled: true}
	for name, tc := range map[string]struct {
		tls  kafka.TLS
		sasl kafka.SASL
		key  string
	}{
		"a CA without TLS":           {tls: kafka.TLS{CAFile: "x"}, key: "kafka.tls.ca_file"},
		"a certificate without it":   {tls: kafka.TLS{CertFile: "x"}, key: "kafka.tls.cert_file"},
		"a key without it":           {tls: kafka.TLS{KeyFile: "x"}, key: "kafka.tls.key_file"},
		"a name without it":          {tls: kafka.TLS{ServerName: "x"}, key: "kafka.tls.server_name"},
		"a certificate, no key":      {tls: kafka.TLS{Enabled: true, CertFile: "x"}, key: "kafka.tls.key_file"},
		"a key, no certificate":      {tls: kafka.TLS{Enabled: true, KeyFile: "x"}, key: "kafka.tls.cert_file"},
		"a CA that is not there":     {tls: kafka.TLS{Enabled: true, CAFile: "/nowhere"}, key: "kafka.tls.ca_file"},
		"a CA that is none":          {tls: kafka.TLS{Enabled: true, CAFile: empty}, key: "kafka.tls.ca_file"},
		"certificates that are none": {tls: kafka.TLS{Enabled: true, CertFile: empty, KeyFile: empty}, key: "kafka.tls.cert_file"},
		"another mechanism":          {tls: tls, sasl: kafka.SASL{Mechanism: "GSSAPI", Username: "u", Password: "p"}, key: "kafka.sasl.mechanism"},
		"a user, no mechanism":       {sasl: kafka.SASL{Username: "u"}, key: "kafka.sasl.mechanism"},
		"no user":                    {sasl: kafka.SASL{Mechanism: kafka.SCRAMSHA512, Password: "p"}, key: "kafka.sasl.username"},
		"a password in the clear":    {sasl: kafka.SASL{Mechanism: kafka.Plain, Username: "u", Password: "p"}, key: "kafka.sasl.mechanism"},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(name)
			c.TLS, c.SASL = tc.tls, tc.sasl
			if _, err := kafka.Connect(c); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tc.key+":") {
				t.Errorf("have %v, want %s", err, tc.key)
			}
		})
	}
}
