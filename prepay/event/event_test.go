package event_test

import (
	"testing"

	"github.com/tallystick/tallystick/channels"
	"github.com/tallystick/tallystick/prepay/event"
)

// A PSP's text may be anything: it must never keep an outcome from being recorded.
func TestTextThatIsNotUTF8(t *testing.T) {
	o := event.Outcome{OutTradeNo: "n", Op: "pay", Outcome: channels.Outcome{Result: channels.Unknown, Code: "x\xff", Message: "\xb3\xc9\xb9\xa6", Raw: []byte{0xff}}}
	back, err := event.Decode(o.Encode())
	if err != nil || back.OutTradeNo != "n" || back.Outcome.Raw[0] != 0xff || back.Outcome.Code != "x\ufffd" {
		t.Fatalf("%+v %v", back, err)
	}
}
