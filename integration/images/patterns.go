package images

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Patterns are the files that data is written from: no two sectors of them are
// the same, so that a cluster in a wrong place shows.
const (
	patternFiles = 8
	patternBytes = 1 << 20
	sector       = 512
)

// WritePatterns makes the pattern files in dir.
func WritePatterns(dir string) error {
	for i := range patternFiles {
		if err := os.WriteFile(filepath.Join(dir, patternName(i)), pattern(i), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func patternName(i int) string { return fmt.Sprintf("p%d", i) }

// pattern has random sectors, which compression makes longer, sectors of
// which it makes a tenth, and some of both.
func pattern(i int) []byte {
	rng := rand.New(rand.NewPCG(uint64(i), 0))
	b := make([]byte, patternBytes)
	for s := 0; s < len(b); s += sector {
		random := sector
		switch kind := rng.IntN(4); {
		case i%3 == 1 || i%3 == 2 && kind == 0:
			random = 24
		case i%3 == 2:
			random = rng.IntN(sector)
		}
		tag := byte(rng.Uint32())
		for k := range sector {
			if k < random {
				b[s+k] = byte(rng.Uint32())
			} else {
				b[s+k] = tag
			}
		}
		binary.BigEndian.PutUint32(b[s:], uint32(i)<<24|uint32(s/sector)+1)
	}
	return b
}
