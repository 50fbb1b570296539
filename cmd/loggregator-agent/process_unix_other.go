//go:build unix && !linux

package main

import (
	"os"
	"syscall"
)

func dieWithParent(*syscall.SysProcAttr) {}

func growPipe(*os.File) {}
