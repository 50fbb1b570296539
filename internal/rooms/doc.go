// Package rooms has the parts that daemons are made of, each with its flags: what
// comes in, the rings, what goes out, people, drains. A command is a Process, the
// parts it has, and who is handed to whom:
//
//	p := rooms.New("loggregator-server", about, "127.0.0.1:6060")
//	rings, ingest := rooms.NewRings(p), rooms.NewIngest(p)
//	return p.Run(ctx, args, stdout, stderr, func() error {
//		router, err := rings.Open()
//		if err != nil {
//			return err
//		}
//		return ingest.Open(router)
//	})
//
// A part that is made registers its flags and how they are checked; one that is
// opened, what it serves, its figures, whether it is ready, and how it ends. So
// flags, figures and the order in which things end are the same wherever a part
// is used.
package rooms
