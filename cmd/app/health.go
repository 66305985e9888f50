package app

import (
	"github.com/go-json-experiment/json"
	"github.com/valyala/fasthttp"

	"github.com/tallystick/tallystick/gateway/api"
)

// readiness is the body of the operator port's /readyz.
type readiness struct {
	Status  string            `json:"status"` // ready or not_ready
	Missing map[string]string `json:"missing,omitzero"`
}

// answerHealth is an operator handler that answers, for a process of any role,
//
//	GET /healthz    200 while the process runs
//	GET /readyz     200, or 503 with what is missing and why
//
// The reasons may name databases and brokers: it is not for the public.
func answerHealth(probes []api.Probe, next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(c *fasthttp.RequestCtx) {
		switch string(c.Path()) {
		case "/healthz":
			c.SetBodyString("ok\n")
		case "/readyz":
			r := readiness{Status: "ready", Missing: map[string]string{}}
			for _, p := range probes {
				if err := p.Check(); err != nil {
					r.Status, r.Missing[p.Name] = "not_ready", err.Error()
				}
			}
			if len(r.Missing) > 0 {
				c.SetStatusCode(fasthttp.StatusServiceUnavailable)
			}
			body, err := json.Marshal(r, json.Deterministic(true))
			if err != nil {
				c.Error(err.Error(), fasthttp.StatusInternalServerError)
				return
			}
			c.SetContentType("application/json")
			c.SetBody(body)
		default:
			next(c)
		}
	}
}
