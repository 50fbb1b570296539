//go:build !unix

package main

// lock does nothing here: two agents with one state directory are the user's to
// avoid.
func lock(string) (unlock func(), err error) { return func() {}, nil }
