package app_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// missing asks /readyz what is missing; nothing is a process that is ready.
func missing(t *testing.T, a *app.App) string {
	t.Helper()
	must(t, a.ReadGauges(t.Context()))
	res := ask(a, "GET", "/readyz", "")
	var body struct {
		Missing []string `json:"missing"`
	}
	must(t, json.Unmarshal(res.Body(), &body))
	if ready := res.StatusCode() == 200; ready != (len(body.Missing) == 0) {
		t.Errorf("%d with missing %v", res.StatusCode(), body.Missing)
	}
	return strings.Join(body.Missing, " ")
}

// An app that lacks something says so by name.
func TestReadyNamesWhatIsMissing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		env   []string
		spoil func(t *testing.T, a *app.App)
		want  string
	}{
		{"nothing", nil, func(*testing.T, *app.App) {}, ""},
		{"intents that nobody reads", []string{"TALLYSTICK_INTAKE_UNREAD_AGE_MAX=1ms"}, func(t *testing.T, a *app.App) { unread(t, a, bus.Intents) }, "intents_backlog"},
		{"callbacks that nobody reads", []string{"TALLYSTICK_INTAKE_UNREAD_BYTES_MAX=1"}, func(t *testing.T, a *app.App) { unread(t, a, bus.Callbacks) }, "callbacks_backlog"},
		{"a gap in a log", nil, func(t *testing.T, a *app.App) {
			unread(t, a, bus.Intents)
			unread(t, a, bus.Intents)
			must(t, a.Stores.Intake.Write(t.Context(), func(tx *sqldb.Tx) error {
				_, err := tx.Exec(`DELETE FROM intake_intents WHERE seq = 1`)
				return err
			}))
			stepAll(t, a, "core.intents")
		}, "stopped_groups"},
		{"a group that stands still", []string{"TALLYSTICK_CONSUMERS_IDLE=1ms", "TALLYSTICK_CONSUMERS_BACKOFF_MAX=1ms", "TALLYSTICK_CONSUMERS_STALL_ALARM=2ms"},
			func(t *testing.T, a *app.App) {
				unread(t, a, bus.Intents)
				must(t, a.ReadGauges(t.Context())) // sees it for the first time
				time.Sleep(5 * time.Millisecond)
			}, "intents_stalled"},
		{"a store after a failed commit", nil, func(t *testing.T, a *app.App) {
			commitFault = func() error { return errors.New("input/output error") }
			t.Cleanup(func() { commitFault = nil })
			if err := a.Stores.Prepay.DB().Write(t.Context(), func(*sqldb.Tx) error { return nil }); err == nil {
				t.Fatal("the commit did not fail")
			}
		}, "prepay_store"},
		{"space on the disk", []string{"TALLYSTICK_DISK_FREE_BYTES_MIN=1000000000000000000"}, func(*testing.T, *app.App) {}, "disk"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, _ := initialised(t)
			deps, err := app.Production(dir, tc.env, io.Discard)
			must(t, err)
			deps.CommitFault = func() error {
				if commitFault != nil {
					return commitFault()
				}
				return nil
			}
			a, err := app.New(t.Context(), deps)
			must(t, err)
			defer a.Close() //nolint:errcheck // a test
			tc.spoil(t, a)
			if have := missing(t, a); have != tc.want {
				t.Errorf("missing %q, want %q", have, tc.want)
			}
		})
	}
}

// unread commits a record that no consumer reads, and lets it grow old.
func unread(t *testing.T, a *app.App, topic bus.Topic) {
	t.Helper()
	begun, err := a.API.Begin(a.Directory.Current().Merchant(app.ExampleMerchant),
		api.Call{Body: []byte(`{"order_id":"o-` + time.Now().Format("150405.000000000") + `","amount":100,"currency":"CNY","subject":"mug"}`)})
	must(t, err)
	_, err = a.Intake.Step(t.Context())
	must(t, err)
	if topic != bus.Intents { // the same record will do
		msgs, err := a.Intake.Source(bus.Intents).Read(t.Context(), 0, bus.Place{}, 1)
		must(t, err)
		_, err = a.Intake.Append(topic, &msgs[0].Event)
		must(t, err)
		_, err = a.Intake.Step(t.Context())
		must(t, err)
		stepAll(t, a, "core.intents")
	}
	must(t, a.API.Finish(begun))
	time.Sleep(5 * time.Millisecond)
}

// The operator port has no login: whoever opens it to other machines is told.
func TestAnOpenOperatorPortIsLogged(t *testing.T) {
	for address, open := range map[string]bool{"127.0.0.1:0": false, "localhost:0": false, "0.0.0.0:0": true, ":0": true} {
		dir, _ := initialised(t)
		log := &lockedBuffer{}
		a, err := app.Open(t.Context(), dir, []string{"TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_LISTEN_OPERATOR=" + address}, log)
		must(t, err)
		must(t, a.Listen())
		if warned := strings.Contains(log.String(), `"level":"WARN"`) && strings.Contains(log.String(), "listen_operator"); warned != open {
			t.Errorf("%s: warned %t, want %t: %s", address, warned, open, log)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		must(t, a.Run(ctx)) // closes what is listened on
		must(t, a.Close())
	}
}
