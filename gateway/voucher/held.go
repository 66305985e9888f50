package voucher

import (
	"encoding/binary"
	"math/bits"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/traffic"
)

// held is a voucher that this replica accepts and of which nothing was heard yet.
// That is all that most vouchers are while load is high, so that it is small and
// has no pointer: the garbage collector does not look at it. It becomes an entry
// with the first news or waiter.
type held struct {
	used     uint64 // when, in Views.tick
	accepted bool
	gone     bool
	lens     [heldParts]uint8
	text     [heldTextMax]byte // Y and the context's elements, one behind the other
}

const (
	heldParts   = 7
	heldTextMax = 160 // 152 is what the bounds of a context come to
)

// heldBytes is about what one takes: itself, and its share of two maps.
const heldBytes = 256

// pack fills h; false if the strings are longer than the gateway makes them.
func (h *held) pack(c *ids.Context, y ids.Code) bool {
	n := 0
	for i, s := range [heldParts]string{string(y), string(c.BizCode), c.Merchant, c.OrderType, c.OrderScene, c.TraceID, string(c.Form)} {
		if len(s) > len(h.text)-n {
			return false
		}
		h.lens[i] = uint8(len(s)) //nolint:gosec // at most heldTextMax
		n += copy(h.text[n:], s)
	}
	return len(y) == ids.CodeLen && len(c.BizCode) == ids.CodeLen && c.Institution == "" && c.Traffic == y.Traffic()
}

// context is the inverse of pack.
func (h *held) context() ids.Context {
	n := 0
	for _, l := range h.lens {
		n += int(l)
	}
	text := string(h.text[:n])
	var parts [heldParts]string
	for i, l := range h.lens {
		parts[i], text = text[:l], text[l:]
	}
	return ids.Context{BizCode: ids.Code(parts[1]), Merchant: parts[2], OrderType: parts[3], OrderScene: parts[4],
		TraceID: parts[5], Form: traffic.Form(parts[6]), Traffic: ids.Code(parts[0]).Traffic()}
}

func (h *held) y() []byte { return h.text[:ids.CodeLen] }
func (h *held) x() []byte { return h.text[ids.CodeLen : 2*ids.CodeLen] }

// holds are the held vouchers, in order of use. A number that is never used again
// names one; its pieces are used again, so that nothing is allocated for it.
type holds struct {
	byY    map[uint64]uint64 // number by hash of Y
	byX    map[uint64]uint32 // how many there are by hash of X: whose messages are decoded
	pieces []*[heldPiece]held
	spare  *[heldPiece]held
	first  uint64 // number of the first in pieces[0]
	oldest uint64 // below next: the oldest that may be there
	next   uint64
}

const heldPiece = 1024

func newHolds() holds { return holds{byY: map[uint64]uint64{}, byX: map[uint64]uint32{}} }

// hashOf is of a code, which is a MAC: its characters are as good as random. Two
// codes that meet here are told apart where it matters.
func hashOf[T ids.Code | []byte](code T) uint64 {
	b := [16]byte{}
	copy(b[:], code[3:])
	return binary.LittleEndian.Uint64(b[:]) ^ bits.RotateLeft64(binary.LittleEndian.Uint64(b[8:])*0x9e3779b97f4a7c15, 31)
}

func (s *holds) at(number uint64) *held {
	n := number - s.first
	return &s.pieces[n/heldPiece][n%heldPiece]
}

// find gives the held voucher y; nil if it is not here.
func (s *holds) find(y ids.Code) *held {
	if len(y) != ids.CodeLen {
		return nil
	}
	number, ok := s.byY[hashOf(y)]
	if !ok {
		return nil
	}
	if h := s.at(number); string(h.y()) == string(y) {
		return h
	}
	return nil
}

// get gives the held voucher of a number, if it is y and still here.
func (s *holds) get(y ids.Code, number uint64) *held {
	if number < s.oldest || number >= s.next {
		return nil
	}
	if h := s.at(number); !h.gone && string(h.y()) == string(y) {
		return h
	}
	return nil
}

// follows reports whether there may be a held voucher of x.
func (s *holds) follows(x ids.Code) bool { return len(x) == ids.CodeLen && s.byX[hashOf(x)] > 0 }

// add puts one in, as the youngest, and gives its number. One of the same Y goes,
// and so does one whose hash is the same by a chance that hardly is one.
func (s *holds) add(h *held) (number uint64) {
	key := hashOf(h.y())
	if number, ok := s.byY[key]; ok {
		before := s.at(number)
		h.accepted = before.accepted && string(before.y()) == string(h.y())
		s.remove(before)
	}
	if s.next-s.first == uint64(len(s.pieces))*heldPiece {
		piece := s.spare
		if s.spare = nil; piece == nil {
			piece = new([heldPiece]held)
		}
		s.pieces = append(s.pieces, piece)
	}
	s.byY[key] = s.next
	s.byX[hashOf(h.x())]++
	s.next++
	*s.at(s.next - 1) = *h
	return s.next - 1
}

// remove takes one out.
func (s *holds) remove(h *held) {
	delete(s.byY, hashOf(h.y()))
	x := hashOf(h.x())
	if n := s.byX[x]; n > 1 {
		s.byX[x] = n - 1
	} else {
		delete(s.byX, x)
	}
	h.gone = true
	s.trim()
}

// last gives the one that was not used for longest; nil if there is none.
func (s *holds) last() *held {
	if s.oldest == s.next {
		return nil
	}
	return s.at(s.oldest)
}

// trim passes what is gone, and gives the pieces back that nothing is in.
func (s *holds) trim() {
	for s.oldest < s.next && s.at(s.oldest).gone {
		s.oldest++
		if s.oldest-s.first == heldPiece {
			s.spare = s.pieces[0]
			s.pieces = append(s.pieces[:0], s.pieces[1:]...)
			s.first = s.oldest
		}
	}
}

func (s *holds) count() int   { return len(s.byY) }
func (s *holds) bytes() int64 { return int64(len(s.byY)) * heldBytes }
