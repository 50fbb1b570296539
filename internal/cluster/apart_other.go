//go:build !unix

package cluster

import "syscall"

func apart() *syscall.SysProcAttr { return nil }
