package transport

// CheckAddress reports whether NewLink understands addr.
func CheckAddress(addr string) error {
	_, err := parseTargets(addr)
	return err
}
