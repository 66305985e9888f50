//go:build !linux

package engines

import "syscall"

// dieWithUs does nothing where the kernel does not kill the children of a process that
// has died: an engine lives on then until it is stopped by hand.
func dieWithUs(*syscall.SysProcAttr) {}
