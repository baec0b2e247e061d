package starthook

import (
	"os"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/tidy"
)

func TestMain(m *testing.M) { os.Exit(tidy.Run(m.Run)) }
