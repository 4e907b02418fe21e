"""Addresses of the EDMS example."""

from django.urls import path

from edms import views

urlpatterns = [
    path("login", views.log_in),
    path("me", views.me),
    path("documents/<int:pk>/file", views.document_file),
]
