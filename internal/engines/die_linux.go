package engines

import "syscall"

// DieWithUs has the kernel kill a child when this process dies.
func DieWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
