package sim

import (
	"html/template"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/internal/money"
)

// pageText is what a payer sees: plain HTML, readable on a phone.
const pageText = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sandbox PSP</title>
<style>
body{font:1.125rem/1.5 system-ui,sans-serif;max-width:28rem;margin:0 auto;padding:1.5rem;color:#1c1c1c;background:#fff}
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;overflow-wrap:anywhere}dt{color:#555}dd{margin:0}
button{font:inherit;width:100%;padding:.9rem;margin:.4rem 0;border-radius:.5rem;border:1px solid #14532d;background:#14532d;color:#fff}
button.no{background:#fff;color:#7f1d1d;border-color:#7f1d1d}
small{color:#555}
</style></head><body>
<h1>Sandbox PSP</h1>
<dl><dt>What</dt><dd>{{.Body.Subject}}</dd><dt>Amount</dt><dd>{{.Body.Amount.Minor}} minor units {{.Body.Amount.Currency}}</dd>
<dt>Number</dt><dd>{{.OutTradeNo}}</dd><dt>State</dt><dd>{{.State}}{{with .Reason}} ({{.}}){{end}}</dd>
{{with .TransactionID}}<dt>Transaction</dt><dd>{{.}}</dd>{{end}}</dl>
{{if .Pending}}<form method="post"><button name="action" value="pay">Pay</button>
<button class="no" name="action" value="decline">Try without funds</button></form>
{{else if .Body.ReturnURL}}<p><a href="{{.Body.ReturnURL}}">Back to the shop</a></p>{{end}}
<p><small>A simulator: no money moves.</small></p></body></html>
`

func newPage() *template.Template { return template.Must(template.New("pay").Parse(pageText)) }

// page shows a payment (GET), or pays it (POST): action is "pay", the default, or
// "decline"; amount_minor is for payers who pay another amount than asked.
func (s *Sim) page(ctx *fasthttp.RequestCtx, rest string) {
	account, outTradeNo, _ := strings.Cut(rest, "/")
	r, ok := s.Find(account, outTradeNo)
	if !ok {
		ctx.Error("there is no such payment\n", 404)
		return
	}
	now := s.cfg.Now()
	switch {
	case ctx.IsGet():
		s.show(ctx, r, now)
	case ctx.IsPost():
		args := ctx.PostArgs()
		done := false
		if string(args.Peek("action")) == "decline" {
			done = s.UserDeclined(account, outTradeNo, now)
		} else {
			amount := money.Amount{}
			if args.Has("amount_minor") {
				n, err := args.GetUint("amount_minor")
				if err != nil || n < 1 {
					ctx.Error("amount_minor: a positive whole number\n", 400)
					return
				}
				amount = money.Of(int64(n), r.Body.Amount.Currency)
			}
			done = s.Desk.UserPays(account, outTradeNo, amount, now)
		}
		if !done {
			r, _ = s.Find(account, outTradeNo)
			ctx.SetStatusCode(409)
			s.show(ctx, r, now)
			return
		}
		ctx.Response.Header.Set("Location", "/pay/"+account+"/"+outTradeNo)
		ctx.SetStatusCode(303)
	default:
		ctx.Error("want GET or POST\n", 405)
	}
}

func (s *Sim) show(ctx *fasthttp.RequestCtx, r Record, now time.Time) {
	pending := r.State == channels.StatePending && now.UnixMilli() < r.Body.ExpiresAtMillis
	ctx.SetContentType("text/html; charset=utf-8")
	ctx.Response.Header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
	ctx.Response.Header.Set("Cache-Control", "no-store")
	if err := s.pages.Execute(ctx, struct {
		Record
		Pending bool
	}{r, pending}); err != nil {
		s.cfg.Log.Error("payment page", "error", err.Error())
	}
}
