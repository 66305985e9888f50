package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// recordHeadLen is the length and the checksum before a record, in bytes.
const recordHeadLen = 8

// castagnoli is the polynomial that processors have an instruction for.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendRecord appends an event in the intake's framing: its length and the
// CRC-32C of what follows, as four bytes each, little-endian; the envelope
// version as one byte, then each string with its length as a uvarint before it
// (id, type, the context in the order of ids.Columns), the time as a varint, from
// version 2 on what that version added with its length as a uvarint before it, and
// the payload as the rest. Golden bytes are kept for each version in testdata.
func AppendRecord(dst []byte, e *Event) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0) // room for the length and the checksum
	dst = append(dst, byte(e.Version))
	c := &e.Context
	for _, s := range [...]string{e.ID, e.Type, string(c.BizCode), c.Merchant, c.OrderType, c.OrderScene,
		c.Institution, c.TraceID, string(c.Form), string(c.Traffic)} {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	dst = binary.AppendVarint(dst, e.AtMillis)
	if e.Version > 1 { // only ever handed on: this build does not make them
		dst = binary.AppendUvarint(dst, uint64(len(e.Extra)))
		dst = append(dst, e.Extra...)
	}
	dst = append(dst, e.Payload...)
	body := dst[start+recordHeadLen:]
	binary.LittleEndian.PutUint32(dst[start:], uint32(len(body))) //nolint:gosec // bounded by the batch's bytes
	binary.LittleEndian.PutUint32(dst[start+4:], crc32.Checksum(body, castagnoli))
	return dst
}

// ErrRecord is wrapped where a record cannot be read: it is damaged, or of a version
// that this build does not know. Nobody can say what it is about, so it cannot be
// put aside with its key: its group stops, until a build comes that can read it.
var ErrRecord = errors.New("bus: unreadable record")

// ParseRecords is the inverse of a series of AppendRecord. A record that is
// damaged, be it in a single bit, or of a version that this build does not read,
// fails all of them with ErrRecord. The payloads share body's memory.
func ParseRecords(body []byte) ([]Event, error) {
	var out []Event
	for len(body) > 0 {
		if len(body) <= recordHeadLen {
			return nil, ErrRecord
		}
		n, sum := binary.LittleEndian.Uint32(body), binary.LittleEndian.Uint32(body[4:])
		body = body[recordHeadLen:]
		if uint64(n) > uint64(len(body)) || n == 0 || crc32.Checksum(body[:n], castagnoli) != sum {
			return nil, ErrRecord
		}
		e, err := parseRecord(body[:n])
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		body = body[n:]
	}
	return out, nil
}

func parseRecord(r []byte) (Event, error) {
	var e Event
	e.Version = int(r[0])
	if e.Version > EnvelopeVersion+1 || e.Version < EnvelopeVersion-1 || e.Version == 0 {
		return e, fmt.Errorf("%w: envelope version %d, this build reads up to %d", ErrRecord, e.Version, EnvelopeVersion+1)
	}
	r = r[1:]
	var s [10]string
	for i := range s {
		n, w := binary.Uvarint(r)
		if w <= 0 || n > uint64(len(r)-w) {
			return e, ErrRecord
		}
		s[i] = string(r[w : w+int(n)]) //nolint:gosec // n <= len(r)
		r = r[w+int(n):]               //nolint:gosec // n <= len(r)
	}
	at, w := binary.Varint(r)
	if w <= 0 {
		return e, ErrRecord
	}
	r = r[w:]
	if e.Version > 1 {
		n, w := binary.Uvarint(r)
		if w <= 0 || n > uint64(len(r)-w) {
			return e, ErrRecord
		}
		if n > 0 {
			e.Extra = r[w : w+int(n) : w+int(n)] //nolint:gosec // n <= len(r)
		}
		r = r[w+int(n):] //nolint:gosec // n <= len(r)
	}
	e.ID, e.Type, e.AtMillis, e.Payload = s[0], s[1], at, r
	e.Context = ids.Context{BizCode: ids.Code(s[2]), Merchant: s[3], OrderType: s[4], OrderScene: s[5],
		Institution: s[6], TraceID: s[7], Form: traffic.Form(s[8]), Traffic: traffic.Kind(s[9])}
	return e, nil
}
