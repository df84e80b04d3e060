// Package plot draws the figures of benchmark reports as SVG: ratios with their
// intervals, distributions, stages, values along a run. Colours are CSS
// variables, so that a figure is dark or light with the page that it is part of;
// as a file of its own it brings them along. There are no scripts, fonts or
// links in it. What it is given may be anything: numbers that are not finite
// have no place in a figure, text is escaped and cut.
package plot
