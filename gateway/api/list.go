package api

import (
	"context"
	"fmt"
	"strconv"

	"github.com/tallystick/tallystick/core/event"
	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/voucher"
	"github.com/tallystick/tallystick/internal/fault"
)

// pageDefault is the payments of a page that says nothing of it, unless PageMax is less.
const pageDefault = 20

// ListQuery is what is asked of a list; see GET /v1/payments.
type ListQuery struct {
	Limit       int    // 0 is pageDefault
	After       string // the pay_ or vch_ id of the last payment of the page before; empty for the first page
	FromMillis  int64
	UntilMillis int64 // 0 is none
}

// ListAnswer is the body of GET /v1/payments.
type ListAnswer struct {
	Payments []VoucherAnswer `json:"payments"`
	More     bool            `json:"more"` // there are others behind the last one
}

// List gives a merchant's payments that core has taken, the last accepted first.
func (s *Service) List(ctx context.Context, m *merchant.Merchant, q ListQuery) (ListAnswer, error) {
	if err := s.mayRead(m); err != nil {
		return ListAnswer{}, err
	}
	if q.Limit == 0 {
		q.Limit = min(pageDefault, s.d.Config.PageMax)
	}
	ctx, cancel := context.WithTimeout(ctx, s.d.Config.QueryTimeout)
	defer cancel()
	l := event.Listing{Merchant: m.ID, FromMillis: q.FromMillis, UntilMillis: q.UntilMillis, Limit: q.Limit + 1}
	unavailable := func(err error) error {
		return &fault.Error{Kind: fault.Unavailable, Op: "list", Code: "view_unavailable", Err: err}
	}
	if q.After != "" {
		y, err := voucherCode(q.After)
		if err != nil || !s.d.Secret.Verify(y, m.ID) {
			return ListAnswer{}, notListed()
		}
		p, c, found, err := s.d.Queries.Payment(ctx, y)
		switch {
		case err != nil:
			return ListAnswer{}, unavailable(err)
		case !found || c.Merchant != m.ID:
			return ListAnswer{}, notListed()
		}
		l.AfterMillis, l.AfterY = p.AcceptedAtMillis, p.Y
	}
	list, cut, err := s.d.Queries.List(ctx, l)
	if err != nil {
		return ListAnswer{}, unavailable(err)
	}
	a := ListAnswer{Payments: make([]VoucherAnswer, 0, len(list)), More: cut || len(list) > q.Limit}
	for i := range list[:min(len(list), q.Limit)] {
		v := voucher.ViewOf(&list[i].Payment, list[i].Context)
		a.Payments = append(a.Payments, voucherAnswer(&v, true))
	}
	return a, nil
}

func (s *Server) getPayments(x *exchange) error {
	m, err := s.merchant(x.bearer())
	if err != nil {
		return err
	}
	q, err := s.listQuery(x)
	if err != nil {
		return err
	}
	a, err := s.List(context.WithoutCancel(s.polls), m, q)
	if err != nil {
		return err
	}
	return x.json(a)
}

// listQuery reads the parameters of a list.
func (s *Server) listQuery(x *exchange) (q ListQuery, err error) {
	err = x.parameters(
		parameter{"limit", func(text string) (err error) {
			most := s.d.Config.PageMax
			if q.Limit, err = strconv.Atoi(text); err != nil || q.Limit < 1 || q.Limit > most {
				return invalid("query_invalid", "limit", fmt.Sprintf("send 1 to %d", most), nil)
			}
			return nil
		}},
		parameter{"after", func(text string) error {
			if q.After = text; text == "" {
				return notListed()
			}
			return nil
		}},
		parameter{"from_millis", func(text string) (err error) { q.FromMillis, err = readMillis("from_millis", text); return err }},
		parameter{"until_millis", func(text string) (err error) { q.UntilMillis, err = readMillis("until_millis", text); return err }})
	if err == nil && q.UntilMillis != 0 && q.UntilMillis <= q.FromMillis {
		err = invalid("query_invalid", "until_millis", "send a time behind from_millis", nil)
	}
	return q, err
}

// notListed is for an ?after= behind which no list of the merchant can go on.
func notListed() error {
	return invalid("query_invalid", "after", "send the id of a payment of yours that was listed", nil)
}

func readMillis(name, text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 53)
	if err != nil || n == 0 {
		return 0, invalid("query_invalid", name, "send Unix milliseconds", nil)
	}
	return int64(n), nil //nolint:gosec // 53 bits
}
