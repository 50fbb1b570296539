//go:build !unix

package main

import "context"

// lock does nothing here: two agents with one state directory are the user's to
// avoid.
func lock(string) (unlock func(), err error) { return func() {}, nil }

// reloads tells of nothing: this system has no SIGHUP.
func reloads(context.Context) <-chan struct{} { return nil }
