package api

import (
	"errors"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// refuse makes the kernel refuse whoever wants a new connection from now on. What has
// begun goes on: connections that are being made are made, and those that wait can be
// taken. The socket is bound to an interface that does not exist, so that no segment
// that looks for a listener finds it (SO_BINDTOIFINDEX, Linux 5.1; from 5.7 on it needs
// no privilege).
func refuse(s syscall.Conn) error {
	return control(s, func(fd int) error {
		return os.NewSyscallError("bind to no interface", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, math.MaxInt32))
	})
}

// waits reports whether a connection is there to be taken.
func waits(s syscall.Conn) bool {
	found := 0
	err := control(s, func(fd int) (err error) {
		found, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err
	})
	return err == nil && found > 0
}

func control(s syscall.Conn, do func(fd int) error) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	return errors.Join(raw.Control(func(fd uintptr) { failed = do(int(fd)) }), failed)
}
