package ringbuf

import (
	"runtime"
	"sync"
)

// mutex is a sync.Mutex that is waited for awake, at first. Who appends or reads holds
// it for a few microseconds, which is more than sync.Mutex looks for and less than to
// sleep and to be woken takes. Routers over TCP carry 2.2 M records of 5,000
// applications a second with it, and 1.6 M without; BenchmarkHandOver takes 45 ns and
// 75.
type mutex struct {
	sync.Mutex
	looks int
}

// maxLooks take some 10 µs.
const maxLooks = 4000

func newMutex() mutex {
	if runtime.GOMAXPROCS(0) == 1 {
		return mutex{} // who holds it needs the processor
	}
	return mutex{looks: maxLooks}
}

func (m *mutex) Lock() {
	for range m.looks {
		if m.TryLock() {
			return
		}
	}
	m.Mutex.Lock()
}
