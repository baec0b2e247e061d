package page

import (
	"fmt"
	"html"
	"image"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
)

// An ink is a class of the style sheet in place of a colour: what is drawn with it looks at home
// whatever the colours of the page are.
type ink string

// RGBA is for those who do not know better.
func (ink) RGBA() (r, g, b, a uint32) { return 0, 0, 0, math.MaxUint16 }

// noInk draws nothing.
const noInk ink = ""

// A canvas is drawn on by the plotting library. It writes elements of SVG with classes instead of
// styles, which the page's policy forbids. Images are left out, and text is never turned.
type canvas struct {
	b             strings.Builder
	width, height vg.Length
	now           pen
	kept          []pen
	class         string          // of the lines in way
	way           strings.Builder // lines that are not written yet
}

// A pen is the state of the canvas. The place of a point is (x*sx + dx, y*sy + dy).
type pen struct {
	ink            ink
	none           bool
	sx, sy, dx, dy float64
}

// perPoint is how many units of the drawing a point has, so that they can be whole numbers.
const perPoint = 2

func newCanvas(width, height vg.Length) *canvas {
	return &canvas{width: width, height: height, now: pen{sx: 1, sy: 1}}
}

// Size is that of the drawing, in points.
func (c *canvas) Size() (x, y vg.Length) { return c.width, c.height }

// SetLineWidth knows lines, and none.
func (c *canvas) SetLineWidth(w vg.Length) { c.now.none = w <= 0 }

// SetLineDash is left to the style sheet.
func (c *canvas) SetLineDash([]vg.Length, vg.Length) {}

// SetColor takes an ink; any other colour is that of axes, or of nothing.
func (c *canvas) SetColor(colour color.Color) {
	c.now.ink = axisInk
	if i, ok := colour.(ink); ok {
		c.now.ink = i
	} else if _, _, _, alpha := colour.RGBA(); alpha == 0 {
		c.now.ink = noInk
	}
}

// Rotate is not used by plots without titles of axes.
func (c *canvas) Rotate(float64) {}

// Translate moves the origin.
func (c *canvas) Translate(p vg.Point) {
	c.now.dx += float64(p.X) * c.now.sx
	c.now.dy += float64(p.Y) * c.now.sy
}

// Scale stretches what comes.
func (c *canvas) Scale(x, y float64) { c.now.sx, c.now.sy = c.now.sx*x, c.now.sy*y }

// Push keeps the state.
func (c *canvas) Push() { c.kept = append(c.kept, c.now) }

// Pop takes the last one back.
func (c *canvas) Pop() {
	if n := len(c.kept); n > 0 {
		c.now, c.kept = c.kept[n-1], c.kept[:n-1]
	}
}

// Stroke draws a line.
func (c *canvas) Stroke(p vg.Path) {
	if !c.now.none {
		c.draw(string(c.now.ink), p)
	}
}

// Fill fills an area.
func (c *canvas) Fill(p vg.Path) {
	if c.now.ink != noInk {
		c.draw(string(c.now.ink)+" fill", p)
	}
}

// draw adds a way to those of its class: one element has them all.
func (c *canvas) draw(class string, p vg.Path) {
	if class != c.class {
		c.flush()
		c.class = class
	}
	c.path(p)
}

func (c *canvas) flush() {
	if c.way.Len() > 0 {
		fmt.Fprintf(&c.b, `<path class="%s" d="%s"/>`, c.class, c.way.String())
		c.way.Reset()
	}
}

// SVG is what was drawn.
func (c *canvas) SVG() string {
	c.flush()
	return c.b.String()
}

// FillString writes text.
func (c *canvas) FillString(_ font.Face, p vg.Point, text string) {
	x, y := c.place(p)
	fmt.Fprintf(&c.b, `<text x="%d" y="%d">%s</text>`, x, y, html.EscapeString(Text(text).String()))
}

// DrawImage leaves images out.
func (c *canvas) DrawImage(vg.Rectangle, image.Image) {}

// place is where a point of the library's is: y goes down in SVG, and up there.
func (c *canvas) place(p vg.Point) (x, y int) {
	return int(math.Round(perPoint * (float64(p.X)*c.now.sx + c.now.dx))),
		int(math.Round(perPoint * (float64(c.height) - float64(p.Y)*c.now.sy - c.now.dy)))
}

// path writes a way of lines; curves are lines to their ends.
func (c *canvas) path(p vg.Path) {
	var atX, atY int
	for i := range p {
		x, y := c.place(p[i].Pos)
		switch p[i].Type {
		case vg.MoveComp:
			fmt.Fprintf(&c.way, "M%d %d", x, y)
		case vg.CloseComp:
			c.way.WriteByte('z')
			continue
		default:
			line(&c.way, x-atX, y-atY)
		}
		atX, atY = x, y
	}
}

// line goes on from where the way is.
func line(b *strings.Builder, dx, dy int) {
	switch {
	case dx == 0 && dy == 0:
	case dy == 0:
		fmt.Fprintf(b, "h%d", dx)
	case dx == 0:
		fmt.Fprintf(b, "v%d", dy)
	default:
		fmt.Fprintf(b, "l%d %d", dx, dy)
	}
}
