package drain

// The black-box cases of a drain writer by the letters that tests here have in
// their names: F format, S size, T TCP, L TLS, H HTTPS, D names and addresses,
// I isolation, B bindings, R reports, O order, X stop and crash, K Heroku.
//
// These have no test of that name in this package:
//
//	S-04  a line of 100 MB: an envelope has at most 1 MiB; agents and doors cut or refuse before
//	T-15  lost, late and swapped packets: TCP's own work; the kernels that test here have no netem
//	L-03  the receiver's certificate is replaced under live connections: each handshake verifies
//	      what it is shown (L-01), live connections have no more handshakes
//	L-06  half pairs of certificate and key: in the tests of bindings
//	H-19  connections to one host: each drain has one, by its transport (MaxConnsPerHost)
//	H-21  secrets: in H-03 and D-07, whose tests look for them in logs, errors and Stats
//	D-12  error texts of internal ports: ErrDenied before anything is dialled (D-07, D-09)
//	I-02, I-03, I-04  a thousand drains of which many hang: in the tests of sets; drains
//	      share nothing, so there are no slots to be taken
//	I-06  a global limit of memory: drains have no queues; the source has one budget
//	F-19  Telegraf, syslog-ng, Vector: their strict parser (go-syslog) and rsyslog stand for them
//	K-04  Vector's heroku_logs: not here; K-01 checks count and frames as it does
//	K-06  what comes in by log-shuttle: in the packages of what comes in
//	O-02  an order by time over instances: the source's order is kept; Query.ByTime merges
//	      what is there, and waiting for more is not done
//	O-03  clocks that jump: all timers are monotonic, time stamps are passed on (F-03)
//	O-06  equal time stamps: order is by position, never by time (O-01)
//	where drains go on after a restart: in the tests of positions
//	disks: drains write none
//	X-06  one writer after another: Query.Shard, in the tests of the router
//
// And these are answered in another way than the case says:
//
//	F-15  one tag alone leaves the dots of the others ("..shop"), as Cloud Foundry writes it
//	T-12  a URL without port means 514 or 6514
//	S-03  tags are left out in order of name, those that fit stay
//	R-01  only the first gap in 30 s is told in its place; the others are added up
//	R-02  losses have a reason in Stats.LastGap and in what is told, numbers of their own
//	      are Missed, Refused, Filtered
//	O-05  numbers are those of the source's records, so what a URL leaves out leaves gaps
