package instance

import (
	"fmt"
	"math/rand/v2"
	"os"
)

const maxName = 128

// CheckName refuses names that are not [a-zA-Z0-9][a-zA-Z0-9_.-]*.
func CheckName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w %.40q...: longer than %d bytes", ErrBadName, name, maxName)
	}
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("%w %q: use letters, digits, '_', '.' and '-', and begin with a letter or digit", ErrBadName, name)
		}
	}
	if name == "" {
		return fmt.Errorf("%w: it is empty", ErrBadName)
	}
	return nil
}

var (
	adjectives = [...]string{
		"amber", "brisk", "calm", "clever", "crisp", "daring", "eager", "early", "fleet", "frosty", "gentle", "golden", "hardy",
		"hidden", "humble", "jolly", "keen", "late", "lively", "lucid", "mellow", "merry", "mild", "nimble", "noble", "patient",
		"plain", "proud", "quick", "quiet", "rapid", "rustic", "sharp", "silent", "silver", "sleepy", "solid", "steady", "sunny",
		"swift", "tidy", "tiny", "vivid", "warm", "wild", "windy", "wise", "young",
	}
	nouns = [...]string{
		"alder", "badger", "beech", "birch", "bison", "cedar", "crane", "curlew", "dune", "eagle", "egret", "falcon", "fern",
		"finch", "fjord", "gecko", "glade", "harbor", "hazel", "heron", "ibex", "island", "juniper", "kestrel", "lark", "linden",
		"lynx", "maple", "marmot", "marten", "meadow", "moose", "newt", "oriole", "osprey", "otter", "pebble", "petrel", "plover",
		"puffin", "quail", "raven", "river", "robin", "salmon", "spruce", "tern", "thistle", "trout", "walnut", "willow", "wren",
	}
)

// freeName picks a name nobody has. The root is locked.
func (s *Store) freeName() string {
	for try := 0; ; try++ {
		n := adjectives[rand.IntN(len(adjectives))] + "_" + nouns[rand.IntN(len(nouns))]
		if try > 2 {
			n += fmt.Sprintf("_%d", rand.IntN(10000))
		}
		if _, err := os.Lstat(s.nameLink(n)); err != nil {
			return n
		}
	}
}
