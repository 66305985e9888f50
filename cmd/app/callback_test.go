package app_test

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels/sandbox/wire"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/gateway/callback"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// signedCallback is a callback of the sandbox PSP about a number of ours.
func signedCallback(t *testing.T, account string, key []byte) callback.Request {
	t.Helper()
	dir, _ := initialised(t)
	deps, err := app.Production(dir, nil, io.Discard)
	must(t, err)
	y := deps.Secret.Trade(traffic.Real, app.ExampleMerchant, "order-1")
	body := fmt.Sprintf(`{"event_id":"e-1","out_trade_no":"%s0","state":"declined","occurred_at_millis":%d}`, y, time.Now().UnixMilli())
	ring, err := wire.NewRing(key)
	must(t, err)
	s := ring.Sign(wire.KindCallback, "", account, "nonce-0123456789", time.Now(), []byte(body))
	headers := map[string]string{}
	for name, v := range map[string]string{wire.HeaderAccount: s.Account, wire.HeaderKey: s.Key, wire.HeaderTimestamp: s.Timestamp,
		wire.HeaderNonce: s.Nonce, wire.HeaderSignature: s.Signature} {
		headers[strings.ToLower(name)] = v
	}
	return callback.Request{Channel: "sandbox", Account: account, Method: "POST", Path: "/v1/callbacks/sandbox/" + account, Headers: headers, Body: []byte(body)}
}

// While a PSP changes over to a new key, callbacks under the old one are still
// taken; those under any other key never are.
func TestCallbacksUnderTheOldKeyAreTaken(t *testing.T) {
	dir, _ := initialised(t)
	secrets := filepath.Join(dir, app.SecretsDir)
	current, old, other := filepath.Join(secrets, "psp-sandbox-a.key"), strings.Repeat("ab", ids.SecretLen), strings.Repeat("cd", ids.SecretLen)
	text, err := os.ReadFile(current)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(secrets, "psp-sandbox-a-old.key"), []byte(old), 0o600))
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	defer a.Close() //nolint:errcheck // a test
	for _, tc := range []struct {
		name, key string
		taken     bool
	}{{"new", strings.TrimSpace(string(text)), true}, {"old", old, true}, {"another", other, false}} {
		key, err := hex.DecodeString(tc.key)
		must(t, err)
		_, ack, err := a.Callback.Begin(signedCallback(t, "sandbox-a", key))
		if tc.taken && err != nil || !tc.taken && (!fault.Is(err, fault.Unauthorized) || ack.Status != 401) {
			t.Errorf("a callback under the %s key: %d %v", tc.name, ack.Status, err)
		}
	}
}

// A callback goes to the channel and the account that it names: an account of
// another channel is none.
func TestACallbackNamesChannelAndAccount(t *testing.T) {
	dir, _ := initialised(t)
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	defer a.Close() //nolint:errcheck // a test
	for path, status := range map[string]int{
		"/v1/callbacks/alipay/sandbox-a":  404,
		"/v1/callbacks/sandbox/sandbox-c": 404,
		"/v1/callbacks/sandbox/sandbox-a": 401, // there it is held against the keys
	} {
		if have := ask(a, "POST", path, "{}"); have.StatusCode() != status {
			t.Errorf("%s: %d %s, want %d", path, have.StatusCode(), have.Body(), status)
		}
	}
}

// ask has a request answered by the public API of an app that listens nowhere.
func ask(a *app.App, method, path, body string) *fasthttp.Response {
	var req fasthttp.Request
	req.Header.SetMethod(method)
	req.SetRequestURI("http://gateway" + path)
	req.SetBodyString(body)
	ctx := &fasthttp.RequestCtx{}
	ctx.Init(&req, nil, nil)
	a.API.Handler(ctx)
	return &ctx.Response
}
