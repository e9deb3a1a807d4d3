package main

import (
	"fmt"
	"strings"
	"testing"
)

var folders = []string{"base", "overlays/production"}

func read(t *testing.T) *project {
	t.Helper()
	project, err := readProject("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestTheManifestsHaveNoMistake(t *testing.T) {
	for _, folder := range folders {
		count, mistakes := check(read(t), folder)
		if count < 20 || len(mistakes) > 0 {
			t.Errorf("%s: %d objects\n%s", folder, count, strings.Join(mistakes, "\n"))
		}
		fmt.Printf("%s: %d objects, %d mistakes\n", folder, count, len(mistakes))
	}
}

// A planted mistake: a text of a file is replaced, and the check must say so. The path is below deploy/kubernetes, or is that of
// another file that the manifests must agree with.
type planted struct {
	path, from, to, expected string
}

func TestPlantedMistakesAreFound(t *testing.T) {
	original := read(t)
	for _, one := range mistakesToPlant {
		path, folder := one.path, folders[0]
		if strings.HasPrefix(path, "base/") || strings.HasPrefix(path, "overlays/") {
			path = manifests + "/" + path
		}
		if strings.HasPrefix(one.path, "overlays/") {
			folder = folders[1]
		}
		t.Run(one.path+" "+one.to, func(t *testing.T) {
			changed, err := original.with(path, one.from, one.to)
			if err != nil {
				t.Fatal(err)
			}
			_, mistakes := check(changed, folder)
			for _, mistake := range mistakes {
				if strings.Contains(mistake, one.expected) {
					return
				}
			}
			t.Errorf("expected %q among:\n%s", one.expected, strings.Join(mistakes, "\n"))
		})
	}
	if !t.Failed() {
		fmt.Printf("%d planted mistakes, each found\n", len(mistakesToPlant))
	}
}
