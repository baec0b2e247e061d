package page

import (
	"bytes"
	"testing"
	"time"
)

func TestAPageOfManyGuestsIsSmall(t *testing.T) {
	var b bytes.Buffer
	m := crowd(500, 30)
	start := time.Now()
	if err := Write(&b, m); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes in %v", b.Len(), time.Since(start))
	if b.Len() > 10<<20 {
		t.Errorf("%d bytes, more than 10 MiB", b.Len())
	}
}
