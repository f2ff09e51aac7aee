"""The site's pages."""

from django.urls import path
from letters import views

urlpatterns = [
    path("letters/", views.write),
    path("letters/<int:number>/", views.show),
]
