package app_test

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
)

// Of several token keys the newest signs: numbers and dates as people count, and
// whatever has the longer id.
func TestTheNewestTokenKeySigns(t *testing.T) {
	for _, tc := range []struct{ ids, newest string }{
		{"1", "1"},
		{"1 2", "2"},
		{"9 10", "10"},
		{"10 9 99 100", "100"},
		{"1 20261125", "20261125"},
		{"20261125 20261124 20260930", "20261125"},
		{"20261231 20270101", "20270101"},
		{"a b c", "c"},
		{"a 1", "a"},
		{"b aa", "aa"},
		{"v9 v10", "v10"},
		{"z 20261125", "20261125"},
	} {
		t.Run(tc.ids, func(t *testing.T) {
			dir, _ := initialised(t)
			secrets := filepath.Join(dir, app.SecretsDir)
			must(t, os.Remove(filepath.Join(secrets, "token-1.key")))
			for i, id := range strings.Fields(tc.ids) {
				key := strings.Repeat(string("abcd"[i%4]), 2*ids.SecretLen)
				must(t, os.WriteFile(filepath.Join(secrets, "token-"+id+".key"), []byte(key), 0o600))
			}
			deps, err := app.Production(dir, nil, io.Discard)
			must(t, err)
			token := string(deps.Tokens.Append(nil, api.Claims{Y: ids.Code(strings.Repeat("r", ids.CodeLen)), Merchant: "shop"}))
			if id, _, _ := strings.Cut(strings.TrimPrefix(token, api.TokenPrefix), "."); id != tc.newest {
				t.Errorf("%s signs, want %s", id, tc.newest)
			}
		})
	}
}

// secretsOf are the secrets that each role reads, besides those that all read.
func secretsOf() map[string][]string {
	return map[string][]string{
		"gateway": {"token-1.key", "psp-sandbox-a.key", "psp-sandbox-b.key"}, "core": {"postgres-core.password"},
		"prepay": {"postgres-prepay.password", "psp-sandbox-a.key", "psp-sandbox-b.key"}, "accounting": {"postgres-accounting.password"},
	}
}

// for all
var sharedSecrets = []string{"code.key", "kafka.password", "redis.password"}

// Each role starts with the secrets that it needs, and reads no other: one that others
// could read would be refused. A command that looks at all areas reads all passwords,
// whatever role its folder has, and no keys but that of the codes.
func TestEachRoleReadsItsOwnSecrets(t *testing.T) {
	dir, _ := initialised(t)
	file := func(name string) string { return filepath.Join(dir, app.SecretsDir, name) }
	snapshot, err := merchant.Load(filepath.Join(dir, app.DirectoryFile))
	must(t, err)
	all := slices.Clone(sharedSecrets)
	for _, names := range secretsOf() {
		all = append(all, names...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	for _, name := range all {
		if strings.HasSuffix(name, ".password") {
			must(t, os.WriteFile(file(name), []byte("secret\n"), 0o600))
		}
	}
	env := []string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=a:1", "TALLYSTICK_KAFKA_SASL_MECHANISM=SCRAM-SHA-512", "TALLYSTICK_KAFKA_SASL_USERNAME=u", "TALLYSTICK_CORE_URL=http://c",
		"TALLYSTICK_STORES=postgres", "TALLYSTICK_POSTGRES_DATABASES=1=postgres://db/t", "TALLYSTICK_COORDINATION=redis", "TALLYSTICK_REDIS_ADDRESSES=r:1"}
	process := func(role string) error {
		d, err := app.Production(dir, append(slices.Clone(env), "TALLYSTICK_ROLES="+role), io.Discard)
		if err != nil {
			return err
		}
		if own := d.Passwords[app.Role(role)]; (own == "secret") != (role != "gateway") {
			t.Errorf("%s has the password %q of its own area", role, own)
		}
		d.Directory.Replace(snapshot)
		if d.Channels != nil && len(d.Channels.Accounts()) == 0 { // they are built now, if their keys can be read
			return fault.New(fault.Invalid, "test", "readable_by_others: no channel account")
		}
		return nil
	}
	command := func() error {
		d, err := app.Outside(dir, append(slices.Clone(env), "TALLYSTICK_ROLES=accounting"), io.Discard)
		if err == nil && len(d.Passwords) != 3 {
			t.Errorf("a command has the passwords of %d areas, want 3", len(d.Passwords))
		}
		return err
	}
	// Only reads with what it needs alone, and is refused without each of it.
	only := func(who string, needs []string, run func() error) {
		t.Helper()
		open := func(names ...string) {
			for _, name := range all {
				must(t, os.Chmod(file(name), map[bool]os.FileMode{true: 0o600, false: 0o644}[slices.Contains(names, name)]))
			}
		}
		open(needs...)
		if err := run(); err != nil {
			t.Errorf("%s does not start with %v alone: %v", who, needs, err)
		}
		for _, name := range needs {
			if strings.HasPrefix(name, "psp-") { // an account without a key is left out, and the others go on
				continue
			}
			open(slices.DeleteFunc(slices.Clone(needs), func(n string) bool { return n == name })...)
			if err := run(); err == nil || !strings.Contains(err.Error(), "readable_by_others") {
				t.Errorf("%s starts without %s: %v", who, name, err)
			}
		}
	}
	for role, own := range secretsOf() {
		only(role, slices.Concat(sharedSecrets, own), func() error { return process(role) })
	}
	only("a command", []string{"code.key", "kafka.password", "postgres-core.password", "postgres-prepay.password", "postgres-accounting.password"}, command)
}
