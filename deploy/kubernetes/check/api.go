package main

import (
	"context"
	"fmt"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	security "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

var strict = func() runtime.Decoder {
	if err := monitoring.AddToScheme(legacyscheme.Scheme); err != nil {
		panic(err)
	}
	return serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// decode returns the objects of the documents, with defaults, and what the API server refuses or warns of: unknown fields, invalid
// values, and pods beyond the Pod Security Standard of their namespace.
func decode(documents [][]byte) (*cluster, []string) {
	cluster := &cluster{}
	var mistakes []string
	for _, document := range documents {
		object, kind, err := strict.Decode(document, nil, nil)
		if err != nil {
			head, _, _ := strings.Cut(string(document), "\nspec:")
			mistakes = append(mistakes, fmt.Sprintf("%v in %s", err, strings.Join(strings.Fields(head), " ")))
			continue
		}
		if kind.Group != "monitoring.coreos.com" {
			for _, mistake := range refusals(object, *kind) {
				mistakes = append(mistakes, fmt.Sprintf("%s %s: %s", kind.Kind, name(object), mistake))
			}
		}
		if deployment, is := object.(*apps.Deployment); is && deployment.Spec.Replicas == nil {
			cluster.unscaled = append(cluster.unscaled, deployment.Name)
		}
		legacyscheme.Scheme.Default(object)
		cluster.add(object)
	}
	for _, workload := range cluster.workloads {
		mistakes = append(mistakes, cluster.insecure(workload)...)
	}
	return cluster, mistakes
}

func name(object runtime.Object) string {
	return object.(meta.Object).GetName()
}

func refusals(object runtime.Object, kind schema.GroupVersionKind) []string {
	strategy, known := strategies[kind.Kind]
	if !known {
		return []string{"the check does not know this kind"}
	}
	object = object.DeepCopyObject()
	legacyscheme.Scheme.Default(object)
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return []string{err.Error()}
	}
	resource := &request.RequestInfo{
		IsResourceRequest: true, Verb: "create",
		APIGroup: kind.Group, APIVersion: kind.Version, Resource: strings.ToLower(kind.Kind) + "s",
	}
	ctx := request.WithRequestInfo(request.WithNamespace(context.Background(), object.(meta.Object).GetNamespace()), resource)
	rest.FillObjectMetaSystemFields(internal.(meta.Object))
	if err := rest.BeforeCreate(strategy, ctx, internal); err != nil {
		return []string{err.Error()}
	}
	return strategy.WarningsOnCreate(ctx, internal)
}

// insecure returns what the admission of a pod's namespace refuses or warns of.
func (c *cluster) insecure(workload *workload) []string {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return []string{err.Error()}
	}
	var space *core.Namespace
	for _, one := range c.namespaces {
		if one.Name == workload.namespace {
			space = one
		}
	}
	if space == nil {
		return []string{workload.String() + ": its namespace is not defined"}
	}
	levels, errors := security.PolicyToEvaluate(space.Labels, security.Policy{})
	var mistakes []string
	for _, err := range errors {
		mistakes = append(mistakes, fmt.Sprintf("Namespace %s: %v", space.Name, err))
	}
	if levels.Enforce.Level != security.LevelRestricted {
		mistakes = append(mistakes, fmt.Sprintf("Namespace %s: enforces %q, not restricted", space.Name, levels.Enforce.Level))
	}
	latest := security.LevelVersion{Level: security.LevelRestricted, Version: security.LatestVersion()}
	for _, level := range []security.LevelVersion{levels.Enforce, latest} {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &workload.pod.ObjectMeta, &workload.pod.Spec))
		if !result.Allowed {
			mistakes = append(mistakes, fmt.Sprintf("%s: %s forbids: %s", workload, level, result.ForbiddenDetail()))
		}
	}
	return mistakes
}
