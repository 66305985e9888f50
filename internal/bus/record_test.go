package bus_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"os"
	"reflect"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// goldenRecord is an event and its bytes, which were made by another program.
type goldenRecord struct {
	Event struct {
		Version     int          `json:"version"`
		ID          string       `json:"id"`
		Type        string       `json:"type"`
		BizCode     ids.Code     `json:"biz_code"`
		Merchant    string       `json:"merchant"`
		OrderType   string       `json:"order_type"`
		OrderScene  string       `json:"order_scene"`
		Institution string       `json:"institution"`
		TraceID     string       `json:"trace_id"`
		Form        traffic.Form `json:"form"`
		Traffic     traffic.Kind `json:"traffic"`
		AtMillis    int64        `json:"at_millis"`
		Payload     string       `json:"payload"`
	} `json:"event"`
	Record string `json:"record"`
}

func goldenRecords(tb testing.TB) (events []bus.Event, records [][]byte) {
	tb.Helper()
	text, err := os.ReadFile("testdata/record_v1.json")
	if err != nil {
		tb.Fatal(err)
	}
	var all []goldenRecord
	if err := json.Unmarshal(text, &all); err != nil {
		tb.Fatal(err)
	}
	for _, g := range all {
		e := g.Event
		events = append(events, bus.Event{ID: e.ID, Type: e.Type, Version: e.Version, AtMillis: e.AtMillis, Payload: []byte(e.Payload),
			Context: ids.Context{BizCode: e.BizCode, Merchant: e.Merchant, OrderType: e.OrderType, OrderScene: e.OrderScene,
				Institution: e.Institution, TraceID: e.TraceID, Form: e.Form, Traffic: e.Traffic}})
		b, err := hex.DecodeString(g.Record)
		if err != nil {
			tb.Fatal(err)
		}
		records = append(records, b)
	}
	return events, records
}

// TestRecordV1 holds the bytes of version 1 still: what was written must be
// readable by every later build that reads version 1.
func TestRecordV1(t *testing.T) {
	events, records := goldenRecords(t)
	var all []byte
	for i := range events {
		if got := bus.AppendRecord(nil, &events[i]); !bytes.Equal(got, records[i]) {
			t.Errorf("event %d is written as\n%x, want\n%x", i, got, records[i])
		}
		all = bus.AppendRecord(all, &events[i])
	}
	got, err := bus.ParseRecords(all)
	if err != nil || !reflect.DeepEqual(got, events) {
		t.Errorf("read %+v, want %+v; %v", got, events, err)
	}
	if none, err := bus.ParseRecords(nil); err != nil || len(none) != 0 {
		t.Errorf("nothing is read as %v, %v", none, err)
	}
}

func TestDamagedRecords(t *testing.T) {
	_, records := goldenRecords(t)
	good := records[0]
	for n := 1; n < len(good); n++ {
		if got, err := bus.ParseRecords(good[:n]); err == nil {
			t.Errorf("cut after %d of %d bytes, it is read as %v", n, len(good), got)
		}
	}
	for bit := range 8 * len(good) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := bus.ParseRecords(b); err == nil {
			t.Errorf("with bit %d turned over, it is read as %v", bit, got)
		}
	}
	framed := func(body []byte) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
		return append(binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))), body...)
	}
	body := func(change func(b []byte) []byte) []byte { return framed(change(bytes.Clone(good[8:]))) }
	for name, b := range map[string][]byte{
		"version 0":                              body(func(b []byte) []byte { b[0] = 0; return b }),
		"version 3":                              framed(append([]byte{3}, make([]byte, 12)...)),
		"version 255":                            framed(append([]byte{255}, make([]byte, 12)...)),
		"version 2 that adds more than there is": framed(append(append([]byte{2}, make([]byte, 11)...), 9, 'x')),
		"version 2 without what it adds":         framed(append([]byte{2}, make([]byte, 11)...)),
		"nothing":                                framed(nil),
		"one byte more":                          append(bytes.Clone(good), 0),
		"string too long":                        body(func(b []byte) []byte { b[1], b[2] = 0xff, 0x7f; return b }),
		"endless length":                         framed(append([]byte{1}, bytes.Repeat([]byte{0xff}, 11)...)),
		"no time":                                framed(append([]byte{1}, make([]byte, 10)...)),
		"too few strings":                        framed(append([]byte{1}, make([]byte, 9)...)),
		"length over all":                        {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1},
	} {
		if got, err := bus.ParseRecords(b); !errors.Is(err, bus.ErrRecord) {
			t.Errorf("%s: read as %v, %v", name, got, err)
		}
	}
	for _, body := range [][]byte{good[8:], append([]byte{2}, make([]byte, 12)...)} {
		if _, err := bus.ParseRecords(framed(body)); err != nil {
			t.Errorf("the frame of this test is wrong: %v", err)
		}
	}
}

func FuzzParseRecords(f *testing.F) {
	_, records := goldenRecords(f)
	for _, r := range records {
		f.Add(r)
	}
	f.Add(bytes.Join(records, nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) >= 8 { // or nothing would get past the checksum
			body = bytes.Clone(body)
			n := min(binary.LittleEndian.Uint32(body), uint32(len(body)-8))
			binary.LittleEndian.PutUint32(body[4:], crc32.Checksum(body[8:8+n], crc32.MakeTable(crc32.Castagnoli)))
		}
		events, err := bus.ParseRecords(body)
		if err != nil {
			return
		}
		var again []byte
		for i := range events {
			again = bus.AppendRecord(again, &events[i])
		}
		// Lengths may have come in more bytes than needed: compare what they mean.
		if twice, err := bus.ParseRecords(again); err != nil || !reflect.DeepEqual(twice, events) {
			t.Fatalf("%x is read as %v and then as %v, %v", body, events, twice, err)
		}
	})
}
