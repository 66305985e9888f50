package sim

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/internal/fault"
)

// Faults is how an account misbehaves. Shares are 0 to 1, of requests or, for
// callbacks and payers, of payments. The zero value is a PSP that answers at
// once, and whose payers never pay by themselves.
type Faults struct {
	// An answer takes the base and an exponential tail of the given mean, at most
	// the maximum.
	LatencyBaseMillis int64 `json:"latency_base_millis"`
	LatencyTailMillis int64 `json:"latency_tail_millis"`
	LatencyMaxMillis  int64 `json:"latency_max_millis"`

	LostReplyShare   float64 `json:"lost_reply_share"`   // done, then the connection closes without an answer
	HangShare        float64 `json:"hang_share"`         // never answered; every other one is done all the same
	HangMaxMillis    int64   `json:"hang_max_millis"`    // then the connection closes
	ServerErrorShare float64 `json:"server_error_share"` // 5xx, nothing done
	DeclineShare     float64 `json:"decline_share"`      // of payments, when asked for

	DuplicateCallbackShare float64 `json:"duplicate_callback_share"`
	EarlyCallbackShare     float64 `json:"early_callback_share"` // the payer pays, and we call back, before pay is answered
	ForgedCallbackShare    float64 `json:"forged_callback_share"`
	CallbackDelayMillis    int64   `json:"callback_delay_millis"`

	AutoPayShare       float64 `json:"auto_pay_share"` // of payments whose payer pays by himself
	AutoPayDelayMillis int64   `json:"auto_pay_delay_millis"`
	AutoPayTailMillis  int64   `json:"auto_pay_tail_millis"` // mean of an exponential tail
	PayerDeclinedShare float64 `json:"payer_declined_share"` // of payers who pay by themselves: without funds
}

// Realistic is the mix that the demo runs with: 50 ms to 3 s, and a little of
// everything that goes wrong.
func Realistic() Faults {
	return Faults{
		LatencyBaseMillis: 50, LatencyTailMillis: 120, LatencyMaxMillis: 3_000,
		LostReplyShare: 0.01, HangShare: 0.01, HangMaxMillis: 30_000, ServerErrorShare: 0.005, DeclineShare: 0.02,
		DuplicateCallbackShare: 0.01, EarlyCallbackShare: 0.005, ForgedCallbackShare: 0.001,
		AutoPayShare: 1, AutoPayDelayMillis: 100, AutoPayTailMillis: 400, PayerDeclinedShare: 0.01,
	}
}

// delayMillisMax bounds every time in Faults: an hour.
const delayMillisMax = 3_600_000

// Validate names the first field that is out of bounds.
func (f *Faults) Validate() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "faults", Code: "faults_invalid", Field: field, Fix: fix}
	}
	for _, s := range []struct {
		name string
		v    float64
	}{
		{"lost_reply_share", f.LostReplyShare}, {"hang_share", f.HangShare}, {"server_error_share", f.ServerErrorShare},
		{"decline_share", f.DeclineShare}, {"duplicate_callback_share", f.DuplicateCallbackShare},
		{"early_callback_share", f.EarlyCallbackShare}, {"forged_callback_share", f.ForgedCallbackShare},
		{"auto_pay_share", f.AutoPayShare}, {"payer_declined_share", f.PayerDeclinedShare},
		{"lost_reply_share + hang_share + server_error_share", f.LostReplyShare + f.HangShare + f.ServerErrorShare},
	} {
		if !(s.v >= 0 && s.v <= 1) { // NaN too
			return bad(s.name, "0 to 1")
		}
	}
	for _, d := range []struct {
		name string
		v    int64
	}{
		{"latency_base_millis", f.LatencyBaseMillis}, {"latency_tail_millis", f.LatencyTailMillis},
		{"latency_max_millis", f.LatencyMaxMillis}, {"hang_max_millis", f.HangMaxMillis},
		{"callback_delay_millis", f.CallbackDelayMillis}, {"auto_pay_delay_millis", f.AutoPayDelayMillis},
		{"auto_pay_tail_millis", f.AutoPayTailMillis},
	} {
		if d.v < 0 || d.v > delayMillisMax {
			return bad(d.name, fmt.Sprintf("0 to %d", delayMillisMax))
		}
	}
	if f.LatencyBaseMillis > f.LatencyMaxMillis && f.LatencyMaxMillis > 0 {
		return bad("latency_max_millis", "not below latency_base_millis")
	}
	if f.LatencyTailMillis > 0 && f.LatencyMaxMillis == 0 {
		return bad("latency_max_millis", "a tail wants a maximum")
	}
	if f.HangShare > 0 && f.HangMaxMillis == 0 {
		return bad("hang_max_millis", "a bound, such as 30000")
	}
	return nil
}

// ParseFaults reads JSON strictly: all fields are optional, unknown ones refused.
func ParseFaults(b []byte) (Faults, error) {
	var f Faults
	if err := json.Unmarshal(b, &f, json.RejectUnknownMembers(true)); err != nil {
		return Faults{}, &fault.Error{Kind: fault.Invalid, Op: "faults", Code: "faults_invalid", Err: err}
	}
	return f, f.Validate()
}

// The names under which injected faults are counted.
const (
	faultLostReply   = "lost_reply"
	faultHang        = "hang"
	faultServerError = "server_error"
	faultDecline     = "decline"
	faultDuplicate   = "duplicate_callback"
	faultEarly       = "early_callback"
	faultForged      = "forged_callback"
	faultPayer       = "payer_declined"
)

// faultNames in the order of their counters.
func faultNames() []string {
	return []string{faultDecline, faultDuplicate, faultEarly, faultForged, faultHang, faultLostReply, faultPayer, faultServerError}
}

// dice are 32 bytes of chance that belong to one question about one payment.
type dice [sha256.Size]byte

// roll is a pure function of its arguments.
func roll(seed uint64, k Key, about string, n int) dice {
	b := make([]byte, 0, 128)
	b = binary.BigEndian.AppendUint64(b, seed)
	b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // a count
	for _, s := range [...]string{about, k.Account, k.OutTradeNo} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return sha256.Sum256(b)
}

// share is the i-th of four numbers in [0, 1).
func (d *dice) share(i int) float64 {
	return float64(binary.BigEndian.Uint64(d[8*i:])>>11) / (1 << 53)
}

// tail is an exponentially distributed duration of the given mean.
func (d *dice) tail(i int, meanMillis int64) time.Duration {
	return time.Duration(-math.Log(1-d.share(i)) * float64(meanMillis) * float64(time.Millisecond))
}

// latency of an answer.
func (f *Faults) latency(d *dice, i int) time.Duration {
	t := millis(f.LatencyBaseMillis) + d.tail(i, f.LatencyTailMillis)
	if f.LatencyTailMillis > 0 {
		t = min(t, millis(f.LatencyMaxMillis))
	}
	return t
}

func millis(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
