package device

import (
	"fmt"
	"os"
	"strings"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
)

// Disk is a file or block device, whose content is lost. Flags are our variants of
// it, as after path=FILE. The peer has a disk with an iothread and io_uring, past
// the host's page cache and not, with and without the iothread's polling, which
// one processor can only lose by.
func Disk(path string, flags []string) (Subject, error) {
	if _, err := os.Stat(path); err != nil {
		return Subject{}, fmt.Errorf("the disk to measure: %w", err)
	}
	s := Subject{tests: func(list string) int { return len(probe.Chosen(probe.Tests, list)) }}
	for _, f := range flags {
		s.hvctl = append(s.hvctl, variant{f, func(string) []string {
			return []string{"--disk", strings.TrimSuffix("path="+path+","+f, ",")}
		}})
	}
	for _, cache := range []string{"none", "writeback"} {
		for _, poll := range []string{"", ",nopoll"} {
			s.qemu = append(s.qemu, variant{"cache=" + cache + poll, func(transport string) []string {
				thread := "iothread,id=io"
				if poll != "" {
					thread += ",poll-max-ns=0"
				}
				return []string{
					"-object", thread,
					"-drive", "id=disk,if=none,format=raw,aio=io_uring,file=" + path + ",cache=" + cache,
					"-device", deviceModel("blk", transport) + ",drive=disk,iothread=io,num-queues=1",
				}
			}})
		}
	}
	return s, nil
}
