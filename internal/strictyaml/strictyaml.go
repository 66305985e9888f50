package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/tallystick/tallystick/internal/fault"
)

// Decode reads text, of the file that errors are to name, over what is in the
// struct that into points to. A text without any key is io.EOF, and has changed
// nothing that counts; every other error is fault.Invalid. Refused as well is what
// the decoder takes, and what nobody means: a second document, and a fraction
// where a whole number belongs (it would be cut off).
func Decode(file string, text []byte, into any) error { return decode(file, text, into, yaml.Strict()) }

// DecodeKnown is Decode for what another build may have written: it passes over keys that
// the struct does not have.
func DecodeKnown(file string, text []byte, into any) error { return decode(file, text, into) }

func decode(file string, text []byte, into any, options ...yaml.DecodeOption) error {
	tree, err := parser.ParseBytes(text, 0)
	if err != nil {
		return notDecoded(file, err)
	}
	c := &check{file: file, anchors: map[string]ast.Node{}}
	for i, doc := range tree.Docs {
		if i > 0 {
			c.refuse("---", doc.Start, "keep one document in the file")
		}
		c.value("", doc.Body, reflect.TypeOf(into).Elem())
	}
	if c.err != nil {
		return c.err
	}
	err = yaml.NewDecoder(bytes.NewReader(text), options...).Decode(into)
	if err != nil && !errors.Is(err, io.EOF) {
		return notDecoded(file, err)
	}
	return err
}

// notDecoded shows the line that the parser or decoder could not read.
func notDecoded(file string, err error) error {
	return &fault.Error{Kind: fault.Invalid, Op: file, Code: "bad_key_or_value", Fix: "correct the line above",
		Err: fmt.Errorf("\n%s", strings.TrimSpace(yaml.FormatError(err, false, true)))}
}

// check goes through a document beside the type that it is for, and keeps the
// first thing that is wrong. What it does not understand it leaves to the decoder.
type check struct {
	file    string
	anchors map[string]ast.Node
	err     error
}

func (c *check) refuse(path string, at *token.Token, fix string) {
	if c.err != nil {
		return
	}
	e := &fault.Error{Kind: fault.Invalid, Op: c.file, Field: path, Code: "bad_value", Fix: fix}
	if at != nil {
		e.Err = fmt.Errorf("line %d: %s", at.Position.Line, strings.TrimSpace(at.Value))
	}
	c.err = e
}

func (c *check) value(path string, n ast.Node, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := n.(type) {
	case *ast.AnchorNode:
		c.value(path, v.Value, t)
		c.anchors[v.Name.GetToken().Value] = v.Value // now: one that holds itself would never end
	case *ast.AliasNode:
		if to, ok := c.anchors[v.Value.GetToken().Value]; ok {
			c.value(path, to, t)
		}
	case *ast.TagNode:
		c.value(path, v.Value, t)
	case *ast.MappingNode:
		for _, entry := range v.Values {
			c.entry(path, entry, t)
		}
	case *ast.MappingValueNode:
		c.entry(path, v, t)
	case *ast.SequenceNode:
		if t.Kind() == reflect.Slice {
			for i, e := range v.Values {
				c.value(fmt.Sprintf("%s[%d]", path, i), e, t.Elem())
			}
		}
	case ast.ScalarNode:
		c.scalar(path, v, t)
	}
}

// entry is one key of a mapping; a key that the struct does not have is left to
// the decoder, which refuses it.
func (c *check) entry(path string, n *ast.MappingValueNode, t reflect.Type) {
	if n.Key.IsMergeKey() {
		c.value(path, n.Value, t)
		return
	}
	if t.Kind() != reflect.Struct {
		return
	}
	key := n.Key.GetToken().Value
	for i := range t.NumField() {
		f := t.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name == key {
			c.value(strings.TrimPrefix(path+"."+key, "."), n.Value, f.Type)
		}
	}
}

func (c *check) scalar(path string, n ast.ScalarNode, t reflect.Type) {
	fraction := n.Type() == ast.FloatType || n.Type() == ast.InfinityType || n.Type() == ast.NanType
	switch kind := t.Kind(); {
	case t == reflect.TypeFor[time.Duration]():
		s, _ := n.GetValue().(string)
		if _, err := time.ParseDuration(s); err != nil && n.Type() != ast.NullType {
			c.refuse(path, n.GetToken(), "give a duration with its unit, such as 1.5s")
		}
	case fraction && kind >= reflect.Int && kind <= reflect.Uint64:
		c.refuse(path, n.GetToken(), "use a whole number")
	case fraction && kind == reflect.String:
		c.refuse(path, n.GetToken(), "put it in quotes: it is read as a number")
	}
}
