package term

import (
	"os"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) {
	if os.Getenv(drawEnv) != "" {
		draw()
	}
	os.Exit(tidy.Run(m.Run))
}
