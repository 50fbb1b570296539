//go:build unix

package cluster

import "syscall"

// apart keeps a terminal's Ctrl-C from the daemons: who started them stops them, in
// the order of flow.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
