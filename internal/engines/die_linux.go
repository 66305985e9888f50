package engines

import "syscall"

// dieWithUs has the kernel kill a child when this process dies.
func dieWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
