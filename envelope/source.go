package envelope

// SourceInfo is what is known of one source and its ring.
type SourceInfo struct {
	SourceID string
	Ring     StreamID

	// Where it belongs, as far as its tags have said.
	App, AppID     string
	Space, SpaceID string
	Org, OrgID     string

	Held  uint64 // records in the ring
	Gone  uint64 // records that were in it and have been given up
	Bytes int64  // what those held take

	// The timestamps of the first and the last record held, in the order of their
	// arrival, in nanoseconds since 1970 UTC; zero if none is.
	Oldest, Newest int64
}
