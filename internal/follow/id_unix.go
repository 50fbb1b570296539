//go:build unix

package follow

import (
	"os"
	"syscall"
)

// trustDirTime: a directory's time of change tells that names in it have come or
// gone.
const trustDirTime = true

// fileID is what a file keeps when it is renamed.
type fileID struct {
	Dev uint64 `json:"dev,string"`
	Ino uint64 `json:"ino,string"`
}

func idOf(_ string, info os.FileInfo) (fileID, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, true
}
