// Command pspsim starts the sandbox PSP's simulator as a server of its own, with
// faults that can be changed while it runs.
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/alecthomas/kong"

	"github.com/tallystick/tallystick/channels/sandbox/sim"
)

type cli struct {
	Listen          string            `help:"Address to listen on." default:"127.0.0.1:9090"`
	PublicURL       string            `help:"Base URL that payers see. Default: http:// and the address listened on." placeholder:"URL"`
	Account         map[string]string `help:"An account and its key: NAME=KEY, the key as text of 16 to 256 bytes, or hex: and hexadecimal digits. Repeatable." placeholder:"NAME=KEY" mapsep:"none" short:"a"`
	AccountFile     map[string]string `help:"An account and the file with its key, as above or, as tallystick init writes it, 64 hexadecimal digits alone; with two lines, the second is the key that is being rotated out. Repeatable." placeholder:"NAME=FILE" mapsep:"none"`
	CallbackAllowed []string          `help:"Host, or host:port, that may be called back. Repeatable." default:"127.0.0.1,localhost,[::1]" placeholder:"HOST"`
	Seed            uint64            `help:"What befalls which payment is drawn from this." default:"1"`
	PaymentsMax     int               `help:"Payments kept; further ones are refused with 503." default:"1000000"`
	Verbose         bool              `help:"Log each callback that could not be delivered." short:"v"`

	Realistic bool   `help:"Start from the demo's mix of faults rather than from none." group:"Faults"`
	Faults    string `help:"Start from the faults in this JSON file (as GET /admin/faults shows them for one account)." type:"existingfile" placeholder:"FILE" group:"Faults"`

	LatencyBaseMillis *int64   `help:"Every answer takes at least this." placeholder:"MS" group:"Faults"`
	LatencyTailMillis *int64   `help:"Mean of the exponential tail on top." placeholder:"MS" group:"Faults"`
	LatencyMaxMillis  *int64   `help:"Most that an answer takes." placeholder:"MS" group:"Faults"`
	LostReply         *float64 `help:"Share of requests that are done, but whose answer is lost." placeholder:"0..1" group:"Faults"`
	Hang              *float64 `help:"Share of requests that are never answered." placeholder:"0..1" group:"Faults"`
	HangMaxMillis     *int64   `help:"Then their connection is closed." placeholder:"MS" group:"Faults"`
	ServerError       *float64 `help:"Share of requests that get 5xx and have no effect." placeholder:"0..1" group:"Faults"`
	Decline           *float64 `help:"Share of payments that are declined at once." placeholder:"0..1" group:"Faults"`
	DuplicateCallback *float64 `help:"Share of payments called back twice." placeholder:"0..1" group:"Faults"`
	EarlyCallback     *float64 `help:"Share of payments called back before they are answered." placeholder:"0..1" group:"Faults"`
	ForgedCallback    *float64 `help:"Share of payments for which somebody else calls back too." placeholder:"0..1" group:"Faults"`
	CallbackDelay     *int64   `help:"Delay of callbacks." placeholder:"MS" group:"Faults"`

	AutoPay           *float64 `help:"Share of payments that are paid without anyone pressing the button." placeholder:"0..1" group:"Payers"`
	AutoPayDelay      *int64   `help:"How long such a payer takes at least." placeholder:"MS" group:"Payers"`
	AutoPayTailMillis *int64   `help:"Mean of the exponential tail on top." placeholder:"MS" group:"Payers"`
	PayerDeclined     *float64 `help:"Share of such payers who have no funds." placeholder:"0..1" group:"Payers"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pspsim:", err)
		os.Exit(1)
	}
}

// run is main without the process, so that tests can start it.
func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c, kong.Name("pspsim"), kong.Writers(out, errOut), kong.Exit(func(int) { exited = true }),
		kong.Description("A payment service provider that takes no money: the sandbox PSP, with signatures, payers, callbacks and faults."))
	if err != nil {
		return err
	}
	_, err = parser.Parse(args)
	if exited { // --help
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (see pspsim --help)", err)
	}
	cfg, err := c.config(errOut)
	if err != nil {
		return err
	}
	s, err := sim.New(cfg)
	if err != nil {
		return err
	}
	if err := s.Listen(c.Listen); err != nil {
		return err
	}
	c.greet(out, s.URL(), cfg.Desk.Accounts)
	return s.Run(ctx)
}

func (c *cli) config(errOut io.Writer) (sim.Config, error) {
	faults, err := c.faults()
	if err != nil {
		return sim.Config{}, err
	}
	accounts, err := c.accounts(faults)
	if err != nil {
		return sim.Config{}, err
	}
	level := slog.LevelInfo
	if c.Verbose {
		level = slog.LevelDebug
	}
	return sim.Config{
		Now: time.Now,
		Log: slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level})),
		Desk: sim.DeskConfig{
			Accounts: accounts, Seed: c.Seed, PublicURL: strings.TrimSuffix(c.PublicURL, "/"), PaymentsMax: c.PaymentsMax,
			CallbackAllowed: func(to string) bool { return allowed(c.CallbackAllowed, to) }, Metrics: metrics.NewSet(),
		},
	}, nil
}

// accounts are sorted by name. Without any there is one to try things with.
func (c *cli) accounts(f sim.Faults) ([]sim.Account, error) {
	var all []sim.Account
	for name, key := range c.Account {
		k, err := parseKey(key)
		if err != nil {
			return nil, fmt.Errorf("--account %s: %w", name, err)
		}
		all = append(all, sim.Account{Name: name, Keys: [][]byte{k}, Faults: f})
	}
	for name, file := range c.AccountFile {
		b, err := os.ReadFile(file) //nolint:gosec // the operator's own choice
		if err != nil {
			return nil, fmt.Errorf("--account-file %s: %w", name, err)
		}
		a := sim.Account{Name: name, Faults: f}
		for line := range bytes.Lines(b) {
			if line = bytes.TrimSpace(line); len(line) == 0 {
				continue
			}
			k, err := parseKeyLine(string(line))
			if err != nil {
				return nil, fmt.Errorf("--account-file %s: %w", name, err)
			}
			a.Keys = append(a.Keys, k)
		}
		all = append(all, a)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no account: try --account demo=%s", "0123456789abcdef")
	}
	slices.SortFunc(all, func(a, b sim.Account) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func parseKey(s string) ([]byte, error) {
	if h, ok := strings.CutPrefix(s, "hex:"); ok {
		return hex.DecodeString(h)
	}
	return []byte(s), nil
}

// parseKeyLine is parseKey for files, where 64 hexadecimal digits are the 32 bytes
// that tallystick takes them for: both sides are given the same file.
func parseKeyLine(s string) ([]byte, error) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == 32 {
		return b, nil
	}
	return parseKey(s)
}

func (c *cli) faults() (sim.Faults, error) {
	var f sim.Faults
	if c.Realistic {
		f = sim.Realistic()
	}
	if c.Faults != "" {
		b, err := os.ReadFile(c.Faults)
		if err != nil {
			return f, err
		}
		if f, err = sim.ParseFaults(b); err != nil {
			return f, err
		}
	}
	set(&f.LatencyBaseMillis, c.LatencyBaseMillis)
	set(&f.LatencyTailMillis, c.LatencyTailMillis)
	set(&f.LatencyMaxMillis, c.LatencyMaxMillis)
	set(&f.LostReplyShare, c.LostReply)
	set(&f.HangShare, c.Hang)
	set(&f.HangMaxMillis, c.HangMaxMillis)
	set(&f.ServerErrorShare, c.ServerError)
	set(&f.DeclineShare, c.Decline)
	set(&f.DuplicateCallbackShare, c.DuplicateCallback)
	set(&f.EarlyCallbackShare, c.EarlyCallback)
	set(&f.ForgedCallbackShare, c.ForgedCallback)
	set(&f.CallbackDelayMillis, c.CallbackDelay)
	set(&f.AutoPayShare, c.AutoPay)
	set(&f.AutoPayDelayMillis, c.AutoPayDelay)
	set(&f.AutoPayTailMillis, c.AutoPayTailMillis)
	set(&f.PayerDeclinedShare, c.PayerDeclined)
	return f, f.Validate()
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// allowed reports whether the URL's host, or host and port, is on the list: a
// simulator must not become a way to call anything else.
func allowed(list []string, to string) bool {
	u, err := url.Parse(to)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil &&
		slices.ContainsFunc(list, func(h string) bool {
			return strings.EqualFold(h, u.Host) || strings.EqualFold(strings.Trim(h, "[]"), u.Hostname())
		})
}

func (c *cli) greet(w io.Writer, base string, accounts []sim.Account) {
	names := make([]string, len(accounts))
	for i, a := range accounts {
		names[i] = a.Name
	}
	fmt.Fprintf(w, `The sandbox PSP listens on %[1]s
  accounts           %[2]s
  a payer's page     %[1]s/pay/%[3]s/OUT_TRADE_NO
Try:
  curl %[1]s/admin/faults
  curl -X PUT '%[1]s/admin/faults?account=%[3]s' -d '{"latency_base_millis":50,"latency_max_millis":3000,"auto_pay_share":1}'
  curl -X PUT '%[1]s/admin/refuse?for_millis=5000'
  curl %[1]s/metrics
`, base, strings.Join(names, ", "), names[0])
}
