package monitoring

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/virt-rotate/virt-rotate/internal/metrics"
)

func TestNodeExporterHandsOnWhatWeWrite(t *testing.T) {
	dir := t.TempDir()
	if err := metrics.Write(filepath.Join(dir, "virt-rotate.prom"), everything()); err != nil {
		t.Fatal(err)
	}
	told, err := Scrape(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(told, "\nnode_textfile_scrape_error 0\n") {
		t.Error("node_exporter could not read the file")
	}
	for line := range strings.Lines(text(t)) {
		if !strings.HasPrefix(line, "#") && !strings.Contains("\n"+told, "\n"+line) {
			t.Errorf("node_exporter does not tell %s", line)
		}
	}
}
