package main

import (
	"context"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
)

// strategies are what the API server runs when an object is created: validation and warnings.
var strategies = map[string]rest.RESTCreateStrategy{
	"Deployment":              deployment.Strategy,
	"HorizontalPodAutoscaler": horizontalpodautoscaler.Strategy,
	"Ingress":                 ingress.Strategy,
	"NetworkPolicy":           networkpolicy.Strategy,
	"PodDisruptionBudget":     poddisruptionbudget.Strategy,
	"StatefulSet":             statefulset.Strategy,

	"Namespace": validation(false, corevalidation.ValidateNamespace),
	"ConfigMap": validation(true, corevalidation.ValidateConfigMap),
	"Service":   validation(true, validateService),
	"ServiceAccount": validation(true, func(account *core.ServiceAccount) field.ErrorList {
		return corevalidation.ValidateServiceAccount(account)
	}),
	"Job": validation(true, validateJob),
}

// A function of the API server in place of its strategy, whose package would bring in the whole storage of the server and double the
// time of the build.
type function struct {
	rest.DeclarativeValidation
	names.NameGenerator
	namespaced bool
	validate   func(runtime.Object) field.ErrorList
}

func validation[T runtime.Object](namespaced bool, validate func(T) field.ErrorList) function {
	return function{
		rest.DeclarativeValidation{Scheme: legacyscheme.Scheme}, names.SimpleNameGenerator, namespaced,
		func(object runtime.Object) field.ErrorList { return validate(object.(T)) },
	}
}

func (f function) NamespaceScoped() bool { return f.namespaced }

func (f function) PrepareForCreate(context.Context, runtime.Object) {}

func (f function) Validate(_ context.Context, object runtime.Object) field.ErrorList {
	return f.validate(object)
}

func (f function) WarningsOnCreate(ctx context.Context, object runtime.Object) []string {
	if job, is := object.(*batch.Job); is {
		return pod.GetWarningsForPodTemplate(ctx, field.NewPath("spec", "template"), &job.Spec.Template, nil)
	}
	return nil
}

func (f function) Canonicalize(runtime.Object) {}

func (f function) DeclarativeValidationConfig(context.Context, runtime.Object, runtime.Object) rest.DeclarativeValidationConfig {
	return rest.DeclarativeValidationConfig{Options: map[string]bool{string(features.WorkloadWithJob): false}}
}

// validateJob validates a Job with a selector, which the server generates.
func validateJob(job *batch.Job) field.ErrorList {
	if job.Spec.Selector == nil {
		job.Spec.Selector = &meta.LabelSelector{MatchLabels: job.Spec.Template.Labels}
	}
	options := pod.GetValidationOptionsFromPodTemplate(&job.Spec.Template, nil)
	return batchvalidation.ValidateJobSpec(&job.Spec, nil, field.NewPath("spec"), options)
}

// validateService validates a Service with the list of addresses that the server makes of its one address.
func validateService(service *core.Service) field.ErrorList {
	if address := service.Spec.ClusterIP; address != "" && len(service.Spec.ClusterIPs) == 0 {
		service.Spec.ClusterIPs = []string{address}
	}
	return corevalidation.ValidateServiceCreate(service)
}
