package follow

import (
	"os"

	"golang.org/x/sys/windows"
)

// trustDirTime: a directory's time of change may come late here.
const trustDirTime = false

// fileID is what a file keeps when it is renamed.
type fileID struct {
	Dev uint64 `json:"dev,string"`
	Ino uint64 `json:"ino,string"`
}

func idOf(path string, _ os.FileInfo) (fileID, bool) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return fileID{}, false
	}
	const share = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	h, err := windows.CreateFile(name, 0, share, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err != nil {
		return fileID{}, false
	}
	defer windows.CloseHandle(h)
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(h, &info); err != nil {
		return fileID{}, false
	}
	return fileID{uint64(info.VolumeSerialNumber), uint64(info.FileIndexHigh)<<32 | uint64(info.FileIndexLow)}, true
}
