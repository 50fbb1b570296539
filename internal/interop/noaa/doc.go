// Package noaa tests the door for v1 with the stock client library, in a module of
// its own: that needs an old release of v1's messages, which cannot be linked
// together with the one that other clients need.
package noaa
