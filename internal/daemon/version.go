package daemon

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Version is what -version prints: the module's version and the commit as the
// toolchain has put them into the binary.
func Version(name string) string {
	version, commit := "unknown", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = " commit " + s.Value
			case "vcs.modified":
				if s.Value == "true" {
					commit += " and changes"
				}
			}
		}
	}
	return fmt.Sprintf("%s %s%s %s %s/%s", name, version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
