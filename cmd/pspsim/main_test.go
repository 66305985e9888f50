package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/channels/sandbox"
	"github.com/tallystick/tallystick/internal/money"
)

// The command as it is typed: three accounts, one with a file of two keys, one
// with a file as tallystick init writes it, and a driver that finds them.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("hex:00112233445566778899aabbccddeeff\nfedcba9876543210\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := filepath.Join(t.TempDir(), "made")
	if err := os.WriteFile(made, []byte(strings.Repeat("6b", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"--listen=127.0.0.1:0", "-a", "one=0123456789abcdef", "--account-file", "two=" + file,
			"--account-file", "made=" + made, "--decline=1"}, w, io.Discard)
		_ = w.Close()
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	greeting := make([]byte, 4096)
	n, err := r.Read(greeting)
	if err != nil {
		t.Fatal(err, <-done)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(string(greeting[:n]))
	if url == "" || !strings.Contains(string(greeting[:n]), "made, one, two") {
		t.Fatalf("%s", greeting[:n])
	}
	for account, key := range map[string]string{"one": "0123456789abcdef", "two": "fedcba9876543210", "made": strings.Repeat("k", 32)} {
		ch, err := sandbox.New(sandbox.Config{Account: account, Endpoint: url, Keys: [][]byte{[]byte(key), []byte("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")},
			Now: time.Now, Random: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		o := ch.Pay.Prepay(t.Context(), channels.PayRequest{OutTradeNo: "n", Amount: money.Of(1, "CNY"), Method: channels.MethodQRCode,
			Subject: "Tea", NotifyURL: "http://localhost:1/", ExpiresAt: time.Now().Add(time.Minute)})
		if o.Result != channels.Declined || o.State != channels.StateDeclined {
			t.Errorf("%s: %+v", account, o)
		}
	}
}

func TestWrongFlagsSayWhatToDo(t *testing.T) {
	for want, args := range map[string][]string{
		"--account demo=":        {},
		"--help":                 {"--nonsense"},
		"lost_reply_share":       {"-a", "one=0123456789abcdef", "--lost-reply=2"},
		"want 16 to 256 bytes":   {"-a", "one=short"},
		"encoding/hex":           {"-a", "one=hex:xy"},
		"no such file":           {"--account-file", "one=/does/not/exist"},
		"letters, digits, dots,": {"-a", "a/b=0123456789abcdef"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q in it", args, err, want)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--help"}, &out, io.Discard); err != nil || !strings.Contains(out.String(), "--early-callback") {
		t.Errorf("--help: %v %s", err, out.String())
	}
}

func TestAllowed(t *testing.T) {
	list := []string{"127.0.0.1", "localhost", "[::1]", "shop.test:8080"}
	for to, want := range map[string]bool{
		"http://127.0.0.1:80/cb": true, "http://localhost/": true, "http://[::1]:9/": true, "https://LOCALHOST": true,
		"http://shop.test:8080/x": true, "http://shop.test/x": false, "http://shop.test:80/x": false,
		"http://169.254.169.254/": false, "http://127.0.0.1.evil.test/": false, "http://evil@127.0.0.1/": false,
		"http://127.0.0.1@evil.test/": false, "ftp://localhost/": false, "": false, "http://localhost%2f@evil.test": false,
	} {
		if got := allowed(list, to); got != want {
			t.Errorf("%s: %v", to, got)
		}
	}
}
