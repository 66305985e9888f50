package ids

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Source makes identifiers with a UUIDv7 (RFC 9562): time-ordered, unique, and
// a pure function of the clock and the randomness that it is given. Safe for
// concurrent use.
type Source struct {
	mu     sync.Mutex
	now    func() time.Time
	random io.Reader
	last   int64 // milliseconds and 12 bits of sub-millisecond counter
}

// NewSource takes a clock and a source of randomness (crypto/rand.Reader in
// production); a failing reader panics, as nothing can be identified without it.
func NewSource(now func() time.Time, random io.Reader) *Source {
	return &Source{now: now, random: random}
}

// New is a fresh identifier, greater than every one made before by this source.
func (s *Source) New(p Prefix) string {
	var u uuid.UUID
	s.mu.Lock()
	now := s.now()
	// RFC 9562, 6.2, method 3: 12 bits of fraction, and at least one more than the last.
	t := now.UnixMilli()<<12 | int64(now.Nanosecond()%1e6)*4096/1e6
	if t <= s.last {
		t = s.last + 1
	}
	s.last = t
	_, err := io.ReadFull(s.random, u[8:])
	s.mu.Unlock()
	if err != nil {
		panic("ids: no randomness: " + err.Error())
	}
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(t>>12)) //nolint:gosec // times are after 1970
	copy(u[:6], ms[2:])
	binary.BigEndian.PutUint16(u[6:8], uint16(t&0xfff)|0x7000) //nolint:gosec // 12 bits
	u[8] = u[8]&0x3f | 0x80
	return string(p) + u.String()
}
