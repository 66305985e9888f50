package app_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/gateway/api"
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
