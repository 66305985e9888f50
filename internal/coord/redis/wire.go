package redis

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/ids"
)

// A message of either channel is a version, who sent it, and what it says: hints of
// a fixed length one behind the other, or names with a line feed between them. The
// version is that of the canonical request too: a replica that would make another
// fingerprint of the same body does not hear this one.
const (
	version     = 1
	headLen     = 1 + idLen
	hintCodeLen = ids.CodeLen
	hintLen     = 8 + hintCodeLen + len(ids.Fingerprint{})
)

func (c *Coordinator) hintsChannel() string { return c.cfg.KeyPrefix + "hints" }
func (c *Coordinator) wakesChannel() string { return c.cfg.KeyPrefix + "wakes" }

func (c *Coordinator) head(room int) []byte {
	return append(append(make([]byte, 0, headLen+room), version), c.id[:]...)
}

func (c *Coordinator) packHints(hints []coord.Hint) []byte {
	m := c.head(len(hints) * hintLen)
	for i := range hints {
		m = binary.BigEndian.AppendUint64(m, hints[i].Key)
		m = append(append(m, hints[i].Y...), hints[i].Fingerprint[:]...)
	}
	return m
}

func (c *Coordinator) packNames(names []string) []byte {
	return append(c.head(0), strings.Join(names, "\n")...)
}

// body takes the head off a message. other is false for one of our own, or of
// another version; ok for one that cannot be read.
func (c *Coordinator) body(m string) (body string, other, ok bool) {
	if len(m) < headLen {
		return "", false, false
	}
	return m[headLen:], m[0] == version && !bytes.Equal([]byte(m[1:headLen]), c.id[:]), true
}

// unpackHints reads a message: nothing of it unless all of it is right.
func unpackHints(body string) ([]coord.Hint, bool) {
	if len(body)%hintLen != 0 {
		return nil, false
	}
	hints := make([]coord.Hint, 0, len(body)/hintLen)
	for ; len(body) > 0; body = body[hintLen:] {
		h := coord.Hint{Key: binary.BigEndian.Uint64([]byte(body[:8]))}
		y, err := ids.ParseCode(body[8 : 8+hintCodeLen])
		if err != nil {
			return nil, false
		}
		h.Y = y
		copy(h.Fingerprint[:], body[8+hintCodeLen:])
		hints = append(hints, h)
	}
	return hints, true
}

// heard takes a message of either channel.
func (c *Coordinator) heard(channel, payload string) {
	body, other, ok := c.body(payload)
	if !ok {
		c.metrics.messagesWrong.Inc()
		return
	}
	if !other {
		return
	}
	if channel == c.wakesChannel() {
		for name := range strings.SplitSeq(body, "\n") {
			if !coord.ValidName(name) {
				c.metrics.messagesWrong.Inc()
				return
			}
			c.subs.Wake(name)
		}
		return
	}
	hints, ok := unpackHints(body)
	if !ok {
		c.metrics.messagesWrong.Inc()
		return
	}
	c.metrics.hintsHeard.Add(len(hints))
	if c.hear != nil {
		for _, h := range hints {
			c.hear(h)
		}
	}
}
