package rig_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
)

// patience is for what does not come.
const patience = 20 * time.Second

// later is a line that is answered when answer is closed.
const later = "answer later"

// newLink is a link to an engine that sends back each line; come waits for one that came to it.
func newLink(t *testing.T, answer <-chan struct{}) (l *rig.Link, come func() string) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	lines := make(chan string, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				for s := bufio.NewScanner(c); s.Scan(); {
					lines <- s.Text()
					if s.Text() == later {
						<-answer
					}
					_, _ = fmt.Fprintln(c, s.Text())
				}
				_ = c.Close()
			}()
		}
	}()
	if l, err = rig.NewLink(t.Context(), ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, func() string {
		select {
		case line := <-lines:
			return line
		case <-time.After(patience):
			return "nothing"
		}
	}
}

// dial gives what sends a line over a link, and what waits for one to come back.
func dial(t *testing.T, l *rig.Link) (send func(string), back func() string) {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	send = func(line string) {
		if _, err := fmt.Fprintln(c, line); err != nil {
			t.Error(err)
		}
	}
	return send, func() string {
		line, err := r.ReadString('\n')
		if err != nil && err != io.EOF {
			t.Error(err)
		}
		return line
	}
}

// What is sent while a link catches comes when it is mended, and others pass it by.
func TestALinkCatches(t *testing.T) {
	answer := make(chan struct{})
	l, come := newLink(t, answer)
	one, oneBack := dial(t, l)
	two, twoBack := dial(t, l)
	three, threeBack := dial(t, l)
	one("before")
	if got := oneBack() + come(); got != "before\nbefore" {
		t.Errorf("before: %q", got)
	}
	three(later)
	come()
	l.Catch()
	close(answer)
	if got := threeBack(); got != later+"\n" {
		t.Errorf("an answer while it catches: %q", got)
	}
	one("caught")
	for begun := time.Now(); !l.Caught("caught"); time.Sleep(time.Millisecond) {
		if time.Since(begun) > patience {
			t.Fatal("it has caught nothing")
		}
	}
	l.Let()
	one("behind it")
	two("later")
	if got := twoBack() + come(); got != "later\nlater" {
		t.Errorf("what came later: %q", got)
	}
	if l.Caught("later") || l.Caught("before") {
		t.Error("it has caught what it let through")
	}
	l.Mend()
	if got := oneBack() + oneBack() + come() + come(); got != "caught\nbehind it\ncaughtbehind it" { // and came to it in this order
		t.Errorf("mended: %q", got)
	}
	if l.Caught("caught") {
		t.Error("what came is still caught")
	}
	one("after")
	if got := oneBack(); got != "after\n" {
		t.Errorf("after: %q", got)
	}
}

// A cut breaks what is there, and what comes.
func TestALinkIsCut(t *testing.T) {
	l, _ := newLink(t, nil)
	one, back := dial(t, l)
	one("x")
	if got := back(); got != "x\n" {
		t.Errorf("%q", got)
	}
	l.Cut()
	if got := back(); got != "" {
		t.Errorf("%q over a link that is cut", got)
	}
	_, back = dial(t, l)
	if got := back(); got != "" {
		t.Errorf("%q over a new connection of a link that is cut", got)
	}
	l.Mend()
	one, back = dial(t, l)
	one("y")
	if got := back(); got != "y\n" {
		t.Errorf("mended: %q", got)
	}
}
