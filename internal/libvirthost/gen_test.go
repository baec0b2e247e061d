package libvirthost

import (
	"encoding/xml"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A gen makes up hosts: XML of all that libvirt's schemas allow, and of some that they do
// not, and images. The same seed makes the same host.
type gen struct {
	*rand.Rand
	dir     string          // of the images
	images  []string        // paths at which something is
	sound   []string        // layers of the sound domain that are to be named now and then; nil: none
	touched map[string]bool // those that are
	n       int             // things that have got a number
}

func newGen(seed uint64, dir string) *gen {
	return &gen{Rand: rand.New(rand.NewPCG(seed, 1)), dir: dir, touched: map[string]bool{}}
}

// in100 is true p times in a hundred.
func (g *gen) in100(p int) bool { return g.IntN(100) < p }

func pick[T any](g *gen, list ...T) T { return list[g.IntN(len(list))] }

// maybe writes something p times in a hundred.
func (g *gen) maybe(p int, what func() string) string {
	if g.in100(p) {
		return what()
	}
	return ""
}

// some writes something up to so many times.
func (g *gen) some(most int, what func() string) string {
	var b strings.Builder
	for range g.IntN(most + 1) {
		b.WriteString(what())
	}
	return b.String()
}

// shuffled writes the parts in any order.
func (g *gen) shuffled(parts ...string) string {
	g.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	return strings.Join(parts, "")
}

func (g *gen) number() int {
	g.n++
	return g.n
}

// attr is an attribute with this value.
func attr(name, value string) string { return " " + name + "='" + escaped(value) + "'" }

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a builder takes everything
	return b.String()
}

func element(name, text string) string { return "<" + name + ">" + text + "</" + name + ">" }

// path is one of a layer: of something that is there, as a rule. Layers of the sound
// domain that a disk has count as touched.
func (g *gen) path() string {
	switch n := g.IntN(100); {
	case n < 8 && g.sound != nil:
		path := pick(g, g.sound...)
		g.touched[path] = true
		return path
	case n < 70 && len(g.images) > 0:
		return pick(g, g.images...)
	case n < 88:
		return filepath.Join(g.dir, fmt.Sprintf("gone%d.qcow2", g.IntN(4)))
	}
	return g.oddPath()
}

func (g *gen) oddPath() string {
	return pick(g, "", "rel/x.qcow2", "x", ".", "..", "/", "//", g.dir, g.dir+"/", g.dir+"/../nowhere/x.qcow2",
		g.dir+"/with space.qcow2", g.dir+"/a,b.qcow2", g.dir+"/new\nline.qcow2", g.dir+`/quo"te'.qcow2`, g.dir+"/tab\t.qcow2",
		g.dir+"/"+strings.Repeat("l", 300)+".qcow2", "/"+strings.Repeat("deep/", 900)+"x", g.dir+"/\u00fc\u2028\U0001f4be.qcow2",
		"/dev/null", "/dev/no/such", "json:{}", "nbd://host/x", "file:"+g.dir+"/x", g.dir+"/./x.qcow2", g.dir+"/p-20260101T090000Z.qcow2")
}

// word is a text of no meaning.
func (g *gen) word() string {
	return pick(g, "", "a", "x y", "é", "<&>'\"", "-1", "0", "99999999999999999999", "yes", "no", strings.Repeat("w", 400), "a/b", "..", "\n")
}

// figure is a number, as a rule.
func (g *gen) figure() string {
	if g.in100(3) {
		return g.word()
	}
	return pick(g, "0", "1", "2", "3", "4294967295")
}

var (
	emptyElement = regexp.MustCompile(`<[A-Za-z]+(?: [A-Za-z]+='[^']*')*/>`)
	attribute    = regexp.MustCompile(` [A-Za-z]+='[^']*'`)
)

// spoil changes a document here and there: what has been well-formed stays so, as a rule.
func (g *gen) spoil(text string) string {
	for range g.IntN(3) {
		text = g.spoilOnce(text)
	}
	if g.in100(1) {
		return text[:g.IntN(len(text)+1)]
	}
	return text
}

func (g *gen) spoilOnce(text string) string {
	find := pick(g, emptyElement, attribute)
	all := find.FindAllStringIndex(text, -1)
	if len(all) == 0 {
		return text
	}
	at := pick(g, all...)
	found := text[at[0]:at[1]]
	switch {
	case find == emptyElement && g.in100(50):
		found += found
	case !g.touching(found): // else it has to stay
		found = ""
	}
	return text[:at[0]] + found + text[at[1]:]
}

// touching tells whether a piece of XML names a layer of the sound domain.
func (g *gen) touching(piece string) bool {
	for path := range g.touched {
		if strings.Contains(piece, path) || slices.ContainsFunc(soundPools, func(pool string) bool { return strings.Contains(soundVolume(pool, path), piece) }) {
			return true
		}
	}
	return strings.HasPrefix(piece, " type=") && len(g.touched) > 0
}
