package main

import (
	"bytes"
	"image/color"
	"math"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var (
	oursColor  = color.RGBA{R: 0x1f, G: 0x6f, B: 0xb5, A: 0xff}
	otherColor = color.RGBA{R: 0xb8, G: 0xc0, B: 0xc8, A: 0xff}
)

const nameWidth = 230 // the points for the names beside the bars

// A bar is one row of a panel.
type bar struct {
	name string
	ns   float64
	ours bool
}

// bars is a plot.Plotter. Gonum's own bars begin at zero, which a logarithmic axis does not
// have. The first bar is at the top.
type bars []bar

func (bs bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	style := p.X.Tick.Label
	style.XAlign, style.YAlign = text.XLeft, text.YCenter
	names := c.Min.X - nameWidth // aligned at the left, so that a wider font does not reach the bars
	for i, b := range bs {
		middle := y(bs.y(i))
		half := (y(1) - y(0)) * 0.36
		fill := otherColor
		if b.ours {
			fill = oursColor
		}
		from, to := x(p.X.Min), x(b.ns)
		c.FillPolygon(fill, []vg.Point{{X: from, Y: middle - half}, {X: to, Y: middle - half}, {X: to, Y: middle + half}, {X: from, Y: middle + half}})
		c.FillText(style, vg.Point{X: names, Y: middle}, b.name)
		c.FillText(style, vg.Point{X: to + 3, Y: middle}, duration(b.ns))
	}
}

func (bs bars) y(i int) float64 { return float64(len(bs) - 1 - i) }

// duration formats ns in a suitable unit.
func duration(ns float64) string {
	for _, unit := range []struct {
		name string
		ns   float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if ns >= unit.ns {
			return short(ns/unit.ns) + " " + unit.name
		}
	}
	return short(ns) + " ns"
}

// chart draws the times of one activity and one heartbeat as an SVG. It returns nil if they
// were not measured.
func chart(results []result) ([]byte, error) {
	var run, beat bars
	for i := range results {
		res := &results[i]
		for k := range res.measured {
			l := &res.measured[k]
			b := bar{name: strings.TrimPrefix(l.name, "floor: "), ns: l.ns(), ours: strings.Contains(l.name, "this package")}
			switch {
			case res.name == "run":
				run = append(run, b)
			case b.name == "an empty method", res.name != "heartbeat, none" && b.name == "time.Now", res.name == "heartbeat, int" && b.name == "json.Marshal":
				// it has a bar elsewhere, or none
			case res.name == "heartbeat, none" || res.name == "heartbeat, int" || res.name == "heartbeat, struct":
				if b.name == "json.Marshal" {
					b.name += " of the struct"
				}
				beat = append(beat, b)
			}
		}
	}
	if len(run) == 0 || len(beat) == 0 {
		return nil, nil
	}

	const width, barHeight, rest = 760, 20, 62
	heights := []vg.Length{vg.Length(len(run)*barHeight + rest), vg.Length(len(beat)*barHeight + rest)}
	svg := vgsvg.New(width, heights[0]+heights[1])
	all := draw.New(svg)
	all.SetColor(color.White)
	all.Fill(all.Rectangle.Path())

	upper, lower := all, all
	upper.Min.Y += heights[1]
	lower.Max.Y -= heights[0]
	panel("One activity that looks at its context, with the timeouts that each has", run).Draw(draw.Crop(upper, nameWidth+8, -14, 6, -6))
	panel("One heartbeat", beat).Draw(draw.Crop(lower, nameWidth+8, -14, 6, -6))

	var out bytes.Buffer
	if _, err := svg.WriteTo(&out); err != nil {
		return nil, err
	}
	// A viewer may lack the font that the text was measured with. Arial and Helvetica are as wide.
	return bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

func panel(title string, bs bars) *plot.Plot {
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.Text = title
	p.Title.TextStyle.Font = font.From(sans, 14)
	p.Title.Padding = 6
	p.X.Tick.Label.Font = font.From(sans, 11)
	p.X.Scale = plot.LogScale{}
	p.X.Min, p.X.Max = math.Inf(1), 0
	for _, b := range bs {
		p.X.Min, p.X.Max = min(p.X.Min, b.ns), max(p.X.Max, b.ns)
	}
	p.X.Min = math.Pow(10, math.Floor(math.Log10(p.X.Min/1.5))) // so that the shortest bar is visible
	span := p.X.Max / p.X.Min
	p.X.Max *= math.Pow(span, 0.12) // for the number beside the longest bar
	p.X.Tick.Marker = decades{}
	p.Y.Tick.Marker = plot.ConstantTicks{}
	p.Y.LineStyle.Width = 0.5
	p.X.LineStyle.Width = 0.5
	p.Y.Min, p.Y.Max = -0.6, float64(len(bs))-0.4
	p.Add(bs)
	return p
}

// decades marks the powers of ten.
type decades struct{}

func (decades) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for v := math.Pow(10, math.Ceil(math.Log10(low)-1e-9)); v <= high; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: duration(v)})
	}
	return ticks
}
